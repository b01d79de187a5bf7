"""A site's memory of its runs, in files, so that it outlives the client; it never leaves the site.

The folder (``memory`` in ``site.yaml``) holds the states after the last two rounds in which the
site trained, one safetensors file for each, with a checksum. Round r starts from the newest state
of an earlier round: a server that is killed continues from its last finished round, so that the
site may have to train round r once more, and then from where it started the first time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fl_common.errors import DataError, FileWriteError
from fl_common.files import PART, arrays_checksum, write_atomically
from tasks.contract import Arrays

MAX_RUNS = 8
"""Of how many runs the site keeps its memory."""

Records = dict[str, Arrays]
_SUFFIX, _BUDGET = ".safetensors", ".epsilon.json"

log = logging.getLogger("fedleague.site")


class RunMemory:
    """What one site remembers of one run.

    Parameters
    ----------
    folder : Path
        Several sites may share it.
    site, run : str
        The site's name, and the run's as the job gives it; both only as part of a hash, because
        the server chose the one and file names must not be its choice.
    """

    def __init__(self, folder: Path, site: str, run: str) -> None:
        self._folder = folder
        self._site = _hashed(site, 8)
        self._stem = f"{self._site}-{_hashed(run, 24)}"

    @property
    def budget_file(self) -> Path:
        """Where what private training has spent in this run is written down: never rolled back."""
        return self._folder / f"{self._stem}{_BUDGET}"

    def newest(self, before: int) -> tuple[int, Records] | None:
        """Return the newest state of a round before ``before``, and the number of that round.

        A damaged file is named in the log and counts as none: an older state would be out of step.
        """
        number = max((n for n in self._rounds() if n < before), default=None)
        if number is None:
            return None
        path = self._path(number)
        try:
            return number, _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: damaged (%s); the site goes on without this memory", path, error)
            return None

    def write(self, number: int, records: Records, before: int) -> None:
        """Keep the state after a round, on disk before this returns; drop what is out of date.

        Parameters
        ----------
        before : int
            The round continued from the newest state before this one.

        Raises
        ------
        DataError
            If it cannot be written; the states of earlier rounds are untouched.
        """
        path = self._path(number)
        try:
            make_private(self._folder)
            write_atomically(path, _encoded(records), private=True)
        except (FileWriteError, OSError) as error:
            why = error.reason if isinstance(error, FileWriteError) else error.strerror
            raise DataError(
                f"{path}: the site's memory cannot be written ({why}); make room, or "
                "give another folder, or memory: null, in site.yaml"
            ) from error
        with suppress(OSError):
            self._drop_outdated(number, before)
            self._drop_old_runs()

    def _rounds(self) -> Iterator[int]:
        pattern = re.compile(rf"{self._stem}-(\d+){re.escape(_SUFFIX)}")
        for name in _names(self._folder):
            if found := pattern.fullmatch(name):
                yield int(found[1])

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._stem}-{number}{_SUFFIX}"

    def _drop_outdated(self, number: int, before: int) -> None:
        """Keep this state and the one it came from; others are of rounds that never counted."""
        source = max((n for n in self._rounds() if n < before), default=number)
        for other in set(self._rounds()) - {number, source}:
            self._path(other).unlink(missing_ok=True)
        for part in self._folder.glob(f".{self._stem}-*{PART}"):
            part.unlink(missing_ok=True)

    def _drop_old_runs(self) -> None:
        """Forget the runs of this site that were written to least recently."""
        runs: dict[str, list[Path]] = {}
        for name in _names(self._folder):
            if found := re.match(rf"\.?({self._site}-[0-9a-f]{{24}})[-.]", name):
                runs.setdefault(found[1], []).append(self._folder / name)
        last = {stem: max(p.stat().st_mtime_ns for p in paths) for stem, paths in runs.items()}
        last.pop(self._stem, None)
        for stem in sorted(last, key=lambda stem: last[stem])[: max(len(last) - MAX_RUNS + 1, 0)]:
            for path in runs[stem]:
                path.unlink(missing_ok=True)


def make_private(folder: Path) -> None:
    """Make a folder that only the site's own user may enter, where there is none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("%s: cannot be read (%s); the site has no memory", folder, error.strerror)
        return []


def _hashed(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _encoded(records: Records) -> bytes:
    """Encode under numbers: names may hold anything, and safetensors forgets their order."""
    named = [(record, name) for record, arrays in records.items() for name in arrays]
    flat = {str(i): np.asarray(records[r][n], order="C") for i, (r, n) in enumerate(named)}
    names = json.dumps(named)
    return bytes(save(flat, metadata={"names": names, "sha256": arrays_checksum(names, flat)}))


def _read(path: Path) -> Records:
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
        named = json.loads(metadata["names"])
        flat = {str(i): file.get_tensor(str(i)) for i in range(len(named))}
    if metadata["sha256"] != arrays_checksum(metadata["names"], flat):
        raise ValueError("its checksum differs")
    records: Records = {}
    for i, (record, name) in enumerate(named):
        records.setdefault(record, {})[name] = flat[str(i)]
    return records
