"""Masks: read by number or colour, checked against their picture, written with a palette."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_common.errors import ConfigError, DataError
from tasks.images.augment import IGNORED
from tasks.images.read import BadImageError, opened
from tasks.semantic_segmentation.schema import Colour, SegmentationSchema

FORMATS = ("PNG", "TIFF", "BMP", "GIF")
"""Only formats that keep every value."""
SUFFIXES = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif"))
Classes = NDArray[np.uint8]
"""Class number of each pixel (h, w); 255 without a label."""


class BadMaskError(DataError):
    """A mask that cannot be used; ``kind`` is a key of ``issues.DESCRIPTIONS``."""

    def __init__(self, kind: str, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.kind = kind
        self.detail = detail


class MaskRef(Protocol):
    """One picture's mask."""

    @property
    def name(self) -> str:
        """What identifies it to the site's operator."""

    def load(self) -> Classes:
        """Decode it; raises ``BadMaskError``."""


@dataclass(frozen=True)
class FileMask:
    """A mask on the site's disk."""

    path: Path
    schema: SegmentationSchema

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def load(self) -> Classes:
        """Decode the file and look its values up."""
        return read_mask(self.path, self.schema)


@dataclass(frozen=True)
class GeneratedMask:
    """A mask that a module-level function draws from its number."""

    dataset: str
    index: int
    draw: Callable[[int], Classes]

    @property
    def name(self) -> str:
        """Data set and number."""
        return f"{self.dataset}/{self.index:05d}"

    def load(self) -> Classes:
        """Draw it."""
        return self.draw(self.index)


def read_mask(path: Path, schema: SegmentationSchema) -> Classes:
    """Return the class of each pixel.

    With values as numbers a mask is a grey or palette picture, whose indices count; with colours it
    is a palette or colour picture.

    Raises
    ------
    BadMaskError
        If the file cannot be read or has a value that is no class.
    """
    try:
        with opened(path, schema.max_pixels, FORMATS) as picture:
            codes = _colours(picture) if schema.coloured else _numbers(picture, path)
    except BadImageError as error:
        raise BadMaskError("mask_unreadable", str(path), error.detail) from None
    return _looked_up(codes, schema, path)


def class_counts(mask: Classes, num_classes: int) -> NDArray[np.int64]:
    """Count pixels by class, shape (c,); those without a label not."""
    return np.bincount(mask.reshape(-1), minlength=IGNORED + 1)[:num_classes].astype(np.int64)


def palette_image(mask: Classes, schema: SegmentationSchema) -> Image.Image:
    """Return a mask as it is written: the use case's numbers, or else class numbers in colour.

    Raises
    ------
    ConfigError
        If a pixel has no label and the use case no value for that.
    """
    values = list(schema.values)
    if (mask == IGNORED).any():
        if not schema.ignore:
            raise ConfigError("usecase.ignore names no value for pixels without a label; add one")
        mask = np.where(mask == IGNORED, len(values), mask)
        values.append(schema.ignore[0])
    table = np.array(values)
    if schema.coloured:
        return Image.fromarray(table.astype(np.uint8)[mask])
    if table.max() > 255:
        return Image.fromarray(table.astype(np.uint16)[mask])
    picture = Image.fromarray(table.astype(np.uint8)[mask]).convert("P")
    picture.putpalette(_palette())
    return picture


def _palette() -> list[int]:
    """Return 256 colours of which neighbours differ (Pascal VOC's)."""
    colours = []
    for number in range(256):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
        colours += colour
    return colours


def _numbers(picture: Image.Image, path: Path) -> NDArray[np.int64]:
    if picture.mode in ("RGB", "RGBA", "CMYK", "F"):
        raise BadMaskError(
            "mask_unreadable",
            str(path),
            f"is a picture of mode {picture.mode}; give colours in usecase.values",
        )
    values = np.asarray(picture.convert("L") if picture.mode == "LA" else picture)
    return values.astype(np.int64)


def _colours(picture: Image.Image) -> NDArray[np.int64]:
    """Return one number for each colour."""
    values = np.asarray(picture.convert("RGB")).astype(np.int64)
    return np.asarray((values[..., 0] << 16) | (values[..., 1] << 8) | values[..., 2])


def _code(value: int | Colour) -> int:
    return value if isinstance(value, int) else (value[0] << 16) | (value[1] << 8) | value[2]


def _looked_up(codes: NDArray[np.int64], schema: SegmentationSchema, path: Path) -> Classes:
    table: dict[int, int] = {}
    for value in schema.ignore:
        table[_code(value)] = IGNORED
    for number, value in enumerate(schema.values):
        table[_code(value)] = number
    found, places = np.unique(codes, return_inverse=True)
    unknown = [code for code in found.tolist() if code not in table]
    if unknown:
        named = ", ".join(
            str([code >> 16, (code >> 8) & 255, code & 255]) if schema.coloured else str(code)
            for code in unknown[:5]
        )
        cure = "usecase.values gives each class's value, usecase.ignore those without a label"
        detail = f"the value {named} is no class; {cure}"
        raise BadMaskError("mask_unknown_value", str(path), detail)
    numbers = np.array([table[code] for code in found.tolist()], dtype=np.uint8)
    return numbers[places].reshape(codes.shape)
