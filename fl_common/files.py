"""Files that are whole or not there: atomic, durable writes and checksums."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import FileWriteError

PART = ".part"
"""How the name of a file ends that is not whole yet; it begins with a dot."""


def write_atomically(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    It is on the disk before this returns, and its name too: a power cut takes neither back.

    Parameters
    ----------
    private : bool
        Only the user who writes it may read it; it never has a wider mode.

    Raises
    ------
    FileWriteError
        If the disk is full or the folder cannot be written; the old file is untouched.
    """
    part = path.with_name(f".{path.name}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(os.open(part, flags, 0o600 if private else 0o666), "wb") as file:
            if private:  # one left over by a crash may have another mode
                os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = f"no space left on the disk for {len(data)} bytes; free some"
            raise FileWriteError(path, why, reason) from None
        raise FileWriteError(path, f"cannot be written: {reason}", reason) from None


def arrays_checksum(text: str, arrays: Mapping[str, NDArray[np.generic]]) -> str:
    """Return the sha256 of a text and of named arrays in their order: types, shapes, values."""
    digest = hashlib.sha256(text.encode())
    for name, array in arrays.items():
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(np.asarray(array, order="C").tobytes())
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename last; where folders cannot be opened there is nothing to be done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
