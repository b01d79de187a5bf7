"""``cell_masks``: generated cells in a stained smear, with the class of each pixel.

A picture is drawn from its number alone, the same on every machine; there is no patient behind it.
Cells are wobbly ovals with a darker nucleus; they touch and overlap, stain and light vary by
laboratory, and debris that is no cell has a nucleus's colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tasks.images.datasets import ImageDataset
from tasks.images.image_refs import GeneratedImage
from tasks.images.issues import ImageIssues
from tasks.semantic_segmentation.masks import GeneratedMask
from tasks.semantic_segmentation.scenes import RawScene

Floats = NDArray[np.float64]

NAME = "cell_masks"
CLASSES = ("background", "cytoplasm", "nucleus")
NUM_PICTURES = 240
SIDE = 64
"""Width and height, pixels."""
SEED = 20260601
LABORATORIES = ("north", "east", "south", "west")
# background, cytoplasm, nucleus: red, green, blue from 0 to 1
_STAINS = (
    ((0.93, 0.90, 0.92), (0.85, 0.66, 0.78), (0.45, 0.30, 0.60)),
    ((0.88, 0.90, 0.94), (0.72, 0.68, 0.84), (0.34, 0.34, 0.62)),
    ((0.95, 0.93, 0.86), (0.88, 0.72, 0.66), (0.55, 0.32, 0.48)),
    ((0.86, 0.86, 0.86), (0.78, 0.62, 0.72), (0.40, 0.36, 0.50)),
)


def cell_masks() -> ImageDataset:
    """Return 240 pictures of 64 x 64 pixels; the column ``laboratory`` is where it was stained."""

    def records(issues: ImageIssues) -> Iterator[RawScene]:
        for index in range(NUM_PICTURES):
            image = GeneratedImage(NAME, index, SIDE, SIDE, draw)
            laboratory = LABORATORIES[index % len(LABORATORIES)]
            yield RawScene(image, GeneratedMask(NAME, index, mask), {"laboratory": laboratory})

    return ImageDataset(NAME, "semantic_segmentation", CLASSES, records)


def mask(index: int) -> NDArray[np.uint8]:
    """Return the class of each pixel, shape (64, 64), uint8."""
    return _scene(index)[0]


def draw(index: int) -> Image.Image:
    """Draw a picture, mode RGB."""
    classes, debris = _scene(index)
    rng = np.random.default_rng([SEED, 1, index])
    stain = np.array(_STAINS[index % len(_STAINS)])  # (3 classes, 3 channels)
    paleness = rng.uniform(0.25, 0.65)  # a thin smear takes little stain
    stain = stain + paleness * (stain[0] - stain) + rng.normal(0, 0.02, stain.shape)
    values = np.where(debris[..., None], stain[2], stain[classes])
    light = 0.16 * _noise(rng, 8) + 0.10 * _noise(rng, 3) - 0.13
    values = values + light[..., None] + rng.normal(0, 0.05, values.shape)
    picture = Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))


@lru_cache(maxsize=64)
def _scene(index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return classes and debris; the picture's and the mask's common part."""
    rng = np.random.default_rng([SEED, 0, index])
    classes = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for _ in range(rng.integers(3, 8)):
        centre, radius = rng.uniform(4, SIDE - 4, 2), rng.uniform(8, 13)
        cell = _blob(rng, centre, radius)
        core = _blob(rng, centre + rng.normal(0, 1.5, 2), radius * rng.uniform(0.4, 0.6)) & cell
        classes[cell] = 1
        classes[core] = 2
    debris = np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(rng.integers(0, 5)):
        debris |= _blob(rng, rng.uniform(0, SIDE, 2), rng.uniform(1.0, 2.2))
    classes.setflags(write=False)
    return classes, debris & (classes == 0)


def _blob(rng: np.random.Generator, centre: Floats, radius: float) -> NDArray[np.bool_]:
    """Return a wobbly oval, shape (64, 64)."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    y, x = rows - centre[0], columns - centre[1]
    angle, tilt, stretch = np.arctan2(y, x), rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
    outline = radius / np.hypot(np.cos(angle - tilt), np.sin(angle - tilt) / stretch)
    for order in (2, 3, 4):
        swing = 0.05 * rng.normal()
        outline = outline * (1 + swing * np.cos(order * angle + rng.uniform(0, 2 * math.pi)))
    return np.asarray(np.hypot(x, y) < outline)


def _noise(rng: np.random.Generator, cells: int) -> Floats:
    """Return smooth noise around 0.5 with so many cells across."""
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
