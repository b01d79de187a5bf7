"""Pictures that are rows of one array, as in an ``.npz`` file."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from fl_common.errors import DataError
from tasks.images.read import (
    DEEPEST,
    DIGEST_BYTES,
    DIM_BELOW,
    BadImageError,
    ImageFacts,
    eight_bits,
)

MAX_RESIDENT_BYTES = 128 * 2**20
"""Larger arrays are unpacked to a temporary file and read from there row by row."""


@dataclass(frozen=True)
class PictureRows:
    """Pictures that are the rows of an array; each is converted to uint8 when it is asked for.

    Parameters
    ----------
    array : array, shape (n, h, w) or (n, h, w, 3)
        uint8; uint16, of which the highest 8 bits are kept; or numbers that ``scale`` brings to
        0..255.
    conversions : tuple of str
        What converting does, as in ``read``'s table.
    """

    array: NDArray[Any]
    scale: float = 1.0
    conversions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.row(index, DEEPEST)

    def row(self, index: int, bit_depth: int) -> NDArray[np.uint8]:
        """Return a picture; ``bit_depth`` is what uint16 pixels use."""
        row = np.asarray(self.array[index])
        if row.dtype == np.uint8:
            return row
        if row.dtype == np.uint16:
            return eight_bits(row, bit_depth)
        return np.rint(row * self.scale).astype(np.uint8)


@dataclass(frozen=True)
class ArrayImage:
    """One row of an array of pictures (``refs.ImageRef``)."""

    origin: str
    index: int
    rows: PictureRows = field(repr=False, compare=False)
    bit_depth: int | None = None

    @property
    def name(self) -> str:
        """File and row."""
        return f"{self.origin}[{self.index}]"

    def inspect(self) -> ImageFacts:
        """Return size and digest; the row is read once."""
        height, width = self.rows.array.shape[1:3]
        content = np.ascontiguousarray(self.rows.array[self.index])
        conversions = self.rows.conversions
        if self.bit_depth is not None and content.dtype == np.uint16:
            self._pixels()
            conversions = tuple(kind for kind in conversions if kind != "dim")
        digest = blake2b(content.tobytes(), digest_size=DIGEST_BYTES).digest()
        return ImageFacts(width, height, conversions, digest)

    def load(self) -> Image.Image:
        """Return the row as a picture in mode RGB."""
        return Image.fromarray(self._pixels()).convert("RGB")

    def _pixels(self) -> NDArray[np.uint8]:
        try:
            return self.rows.row(self.index, self.bit_depth or DEEPEST)
        except ValueError as error:
            raise BadImageError("unsupported", Path(self.name), str(error)) from None


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in a file.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    with _opened(path) as archive:
        return [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]


def read_npz_array(path: Path, name: str) -> NDArray[Any]:
    """Return one array; a large one stays on disk.

    Raises
    ------
    DataError
        If the file is damaged, or the array holds Python objects.
    """
    with _opened(path) as archive:
        member = f"{name}.npy"
        try:
            if archive.getinfo(member).file_size <= MAX_RESIDENT_BYTES:
                with archive.open(member) as stream:
                    array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
                return array
            with tempfile.TemporaryFile() as unpacked:  # the memory map outlives it
                with archive.open(member) as stream:
                    copyfileobj(stream, unpacked)
                return _mapped(unpacked)
        except KeyError:
            raise DataError(f"{path}: no array '{name}'") from None
        except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{path}: array '{name}' cannot be read: {error}") from None


def picture_rows(array: NDArray[Any], where: str) -> PictureRows:
    """Return an array's pictures; nothing is copied, so that a mapped array stays on disk.

    Accepted are channels first or last, uint8, uint16 (the high byte is kept) and floats from 0
    to 1 or from 0 to 255.

    Raises
    ------
    DataError
        If shape, dtype or values are not those of pictures.
    """
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] != 3) or 0 in array.shape:
        raise DataError(
            f"{where} has the shape {array.shape}; expected (n, h, w), (n, h, w, 1) or (n, h, w, 3)"
        )
    if array.dtype == np.uint8:
        return PictureRows(array)
    if array.dtype == np.uint16:
        dim = ("dim",) if 0 < int(array.max()) < DIM_BELOW else ()
        return PictureRows(array, conversions=("sixteen_bit", *dim))
    if array.dtype.kind in "fiub":
        low, high = float(array.min()), float(array.max())
        if low >= 0 and high <= 255:  # NaN compares false
            scale = 255.0 if array.dtype.kind in "fb" and high <= 1 else 1.0
            return PictureRows(array, scale)
    raise DataError(f"{where} is {array.dtype} beyond 0..255 or not finite; save it as uint8")


def _mapped(stream: IO[bytes]) -> NDArray[Any]:
    stream.seek(0)
    version = npy.read_magic(stream)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    order = "F" if fortran else "C"
    return np.memmap(stream, dtype, "r", stream.tell(), shape, order)  # type: ignore[call-overload,no-any-return]


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from None
