"""Pictures to numbers: one size, one number of channels, and their mean and spread."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.stats import Stats

RESIZES = ("pad", "crop", "stretch")
MODES = {1: "L", 3: "RGB"}
IMAGENET: tuple[tuple[float, ...], tuple[float, ...]] = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)


@dataclass(frozen=True)
class Geometry:
    """The picture that a model sees.

    Parameters
    ----------
    size : int, pixels
        Side of the square.
    channels : {1, 3}
    resize : {"pad", "crop", "stretch"}
        How a picture that is not square becomes one: with black borders, from its middle, or out
        of shape.
    """

    size: int
    channels: int
    resize: str = "pad"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w)."""
        return self.channels, self.size, self.size

    def square(self, picture: Image.Image, *, border: int | None = None) -> Image.Image:
        """Resize to the square.

        Parameters
        ----------
        border : int or None
            For a mask: the value of its borders; its other values stay what they are.
        """
        mask = border is not None
        method = Image.Resampling.NEAREST if mask else Image.Resampling.BILINEAR
        target = (self.size, self.size)
        if picture.size == target:
            return picture
        if self.resize == "crop":
            return ImageOps.fit(picture, target, method)
        if self.resize == "pad" and picture.width != picture.height:
            width, height = self.inner(picture.width, picture.height)
            canvas = Image.new(picture.mode, target, border if mask else 0)
            place = ((self.size - width) // 2, (self.size - height) // 2)
            canvas.paste(picture.resize((width, height), method), place)
            return canvas
        return picture.resize(target, method)

    def inner(self, width: int, height: int) -> tuple[int, int]:
        """Return the size of a padded picture without its borders."""
        scale = self.size / max(width, height)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        """Return a picture in mode RGB as pixels, shape (c, h, w), uint8."""
        converted = picture.convert(MODES[self.channels])
        values = np.array(self.square(converted), dtype=np.uint8)
        return np.ascontiguousarray(values.reshape(self.size, self.size, -1).transpose(2, 0, 1))


class Normaliser:
    """Pixels from 0 to 255 to inputs of mean 0 and spread 1.

    Parameters
    ----------
    mean, std : sequence of float, length c
        Of values from 0 to 1.
    """

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self._scale = torch.tensor([1.0 / (255.0 * s) for s in std])[:, None, None]
        self._shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])[:, None, None]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return inputs for pixels (b, c, h, w), uint8; float32."""
        return pixels.float().mul_(self._scale).add_(self._shift)


def pixel_stats(pixels: NDArray[np.uint8]) -> Stats:
    """Return the summands of each channel's mean and variance.

    Parameters
    ----------
    pixels : array, shape (b, c, h, w), uint8

    Returns
    -------
    Stats
        ``pixels`` (), ``sum`` (c,) and ``squares`` (c,): whole numbers in float64, so exact below
        2^53 (a hundred billion bright pixels), and counts of pixels are no counts of rows.
    """
    values = pixels.astype(np.int64).transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1)
    squares = np.square(values).sum(axis=1)
    return Stats(
        {
            "pixels": np.array(float(values.shape[1])),
            "sum": values.sum(axis=1).astype(np.float64),
            "squares": squares.astype(np.float64),
        }
    )


def finalise_pixels(stats: Stats) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, of values from 0 to 1.

    Exact on the pooled pixels, up to the last rounding; 1 stands in for a spread of zero.
    """
    count = int(stats["pixels"])
    mean, std = [], []
    for total, squares in zip(stats["sum"].tolist(), stats["squares"].tolist(), strict=True):
        centre = Fraction(int(total), count)
        variance = float(Fraction(int(squares), count) - centre * centre)
        mean.append(float(centre) / 255.0)
        std.append(math.sqrt(variance) / 255.0 if variance > 0 else 1.0)
    return mean, std
