"""Pictures that are decoded only when asked for: from a file, or drawn by a function.

A reference is small and can be pickled, so that a data set of any size streams: nothing keeps the
decoded pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from PIL import Image

from tasks.images.read import MAX_PIXELS, ImageFacts, inspect_image, read_image


class ImageRef(Protocol):
    """One picture of a site."""

    @property
    def name(self) -> str:
        """What identifies it to the site's operator."""

    def inspect(self) -> ImageFacts:
        """Check it and return its size; raises ``BadImageError``."""

    def load(self) -> Image.Image:
        """Decode it: upright, mode RGB; raises ``BadImageError``."""


@dataclass(frozen=True)
class FileImage:
    """A picture on the site's disk."""

    path: Path
    max_pixels: int = MAX_PIXELS
    bit_depth: int | None = None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def inspect(self) -> ImageFacts:
        """Decode the file once and return its size."""
        return inspect_image(self.path, self.max_pixels, self.bit_depth)

    def load(self) -> Image.Image:
        """Decode the file."""
        return read_image(self.path, self.max_pixels, self.bit_depth)


def with_bit_depth(image: ImageRef, bit_depth: int | None) -> ImageRef:
    """Return a picture whose 16-bit pixels use so many bits; None leaves it to the file."""
    if bit_depth is None or not hasattr(image, "bit_depth"):
        return image
    found: ImageRef = replace(cast(Any, image), bit_depth=bit_depth)
    return found


@dataclass(frozen=True)
class GeneratedImage:
    """A picture that a function draws from its number, the same every time.

    Parameters
    ----------
    draw : callable
        A module-level function from ``index`` to a picture in mode RGB.
    """

    dataset: str
    index: int
    width: int
    height: int
    draw: Callable[[int], Image.Image]

    @property
    def name(self) -> str:
        """Data set and number."""
        return f"{self.dataset}/{self.index:05d}"

    def inspect(self) -> ImageFacts:
        """Return the size; nothing is drawn."""
        return ImageFacts(self.width, self.height)

    def load(self) -> Image.Image:
        """Draw it."""
        return self.draw(self.index)
