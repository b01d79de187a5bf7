"""From pictures of any size to the square that a model sees, and boxes there and back.

Each picture is resized and padded as soon as it is decoded: a batch holds squares, and one picture
of full size at a time. Resizing is plain bilinear interpolation and padding is grey (114), both as
in the YOLO family, so that weights trained elsewhere meet the pixels that they know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from tasks.object_detection.annotations import DetectionItem

PADDING = 114.0 / 255.0
LARGE = 4_000_000
"""Pixels beyond which a picture is resized channel by channel: all its floats are four times it."""


@dataclass(frozen=True)
class Frame:
    """Where a picture lies in the square: ``square = pixel * ratio + offset``, for x and y.

    Parameters
    ----------
    width, height : int, pixels
        The picture after resizing.
    ratio, offset : pair of float
        For x and for y; offsets are whole pixels and may be negative.
    """

    width: int
    height: int
    ratio: tuple[float, float]
    offset: tuple[int, int]

    def into(self, boxes: NDArray[Any]) -> NDArray[np.float32]:
        """Map corners (n, 4) from the picture to the square."""
        mapped = boxes.reshape(-1, 4) * np.array(self.ratio * 2) + np.array(self.offset * 2)
        return np.asarray(mapped, np.float32)

    def back(self, boxes: NDArray[Any], width: int, height: int) -> NDArray[np.float32]:
        """Map corners (n, 4) from the square to a picture of ``width`` x ``height``; clip them."""
        mapped = (boxes.reshape(-1, 4) - np.array(self.offset * 2)) / np.array(self.ratio * 2)
        return np.asarray(mapped.clip(0, [width, height] * 2), np.float32)


@dataclass(frozen=True)
class Target:
    """One picture's boxes in the square.

    Parameters
    ----------
    boxes : tensor, shape (n, 4), float32, pixels of the square
        Corners x1 < x2, y1 < y2.
    labels : tensor, shape (n,), int64
    """

    boxes: torch.Tensor
    labels: torch.Tensor


class Square(NamedTuple):
    """A picture as the model sees it, and what leads back to the picture.

    Parameters
    ----------
    pixels : tensor, shape (3, s, s), float32, in [0, 1]
    width, height : int, pixels
        Of the picture.
    """

    pixels: torch.Tensor
    frame: Frame
    width: int
    height: int


def letterbox(width: int, height: int, size: int, *, keep_ratio: bool = True) -> Frame:
    """Return the frame that fills a square of ``size`` pixels, centred."""
    if not keep_ratio:
        return Frame(size, size, (size / width, size / height), (0, 0))
    ratio = min(size / width, size / height)
    wide, high = max(round(width * ratio), 1), max(round(height * ratio), 1)
    offset = round((size - wide) / 2 - 0.1), round((size - high) / 2 - 0.1)
    return Frame(wide, high, (wide / width, high / height), offset)


def pixels(picture: Image.Image) -> torch.Tensor:
    """Return a picture in mode RGB (or L) as a tensor, shape (3 or 1, h, w), float32, in [0, 1]."""
    values = np.array(picture)  # a copy: the decoder's memory is read-only
    values = values.reshape(picture.height, picture.width, -1)
    return torch.from_numpy(values).permute(2, 0, 1).float().div_(255.0)


def paste(
    canvas: torch.Tensor,
    picture: Image.Image,
    frame: Frame,
    window: tuple[int, int, int, int] | None = None,
) -> None:
    """Resize a picture in mode RGB and lay it on the canvas (3, s, s), cut at ``window``."""
    resized = _resized(picture, frame)
    x1, y1, x2, y2 = window or (0, 0, canvas.shape[2], canvas.shape[1])
    left, top = frame.offset
    x1, y1 = max(left, x1), max(top, y1)
    x2, y2 = min(left + frame.width, x2), min(top + frame.height, y2)
    if x1 < x2 and y1 < y2:
        canvas[:, y1:y2, x1:x2] = resized[:, y1 - top : y2 - top, x1 - left : x2 - left]


def blank(size: int) -> torch.Tensor:
    """Return a grey square, shape (3, size, size)."""
    return torch.full((3, size, size), PADDING)


def boxed(picture: Image.Image, size: int, *, keep_ratio: bool = True) -> Square:
    """Return a picture in mode RGB as the model sees it; nothing of its full size is kept."""
    frame = letterbox(picture.width, picture.height, size, keep_ratio=keep_ratio)
    canvas = blank(size)
    paste(canvas, picture, frame)
    return Square(canvas, frame, picture.width, picture.height)


def chunks(items: Sequence[DetectionItem], count: int) -> Iterator[Sequence[DetectionItem]]:
    """Yield ``items`` in runs of ``count``."""
    for start in range(0, len(items), count):
        yield items[start : start + count]


def _resized(picture: Image.Image, frame: Frame) -> torch.Tensor:
    """Return a picture in the frame's size, shape (3, h, w), float32, in [0, 1]."""
    size = frame.height, frame.width
    if picture.width * picture.height <= LARGE:
        return _interpolated(pixels(picture), size)
    channels = range(len(picture.getbands()))
    return torch.cat([_interpolated(pixels(picture.getchannel(c)), size) for c in channels])


def _interpolated(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if values.shape[1:] == size:
        return values
    return interpolate(values[None], size, mode="bilinear", align_corners=False)[0]
