"""``mammography``: generated breast masses, smooth or spiculated, on fibro-glandular texture.

A picture is drawn from its number alone, the same on every machine; no patient is behind it. What
tells the classes apart is what radiologists look at: a benign mass is oval with a smooth margin, a
malignant one irregular with spicules. Size, brightness, density of the tissue and blur are drawn
alike for both, so that none of them gives the class away.

References
----------
American College of Radiology (2013). BI-RADS atlas, 5th edition (shape and margin of masses).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tasks.image_classification.pictures import RawPicture
from tasks.images.datasets import ImageDataset
from tasks.images.image_refs import GeneratedImage
from tasks.images.issues import ImageIssues

Floats = NDArray[np.float64]

NAME = "mammography"
CLASSES = ("benign", "malignant")
NUM_PICTURES = 1000
SIDE = 64
"""Width and height, pixels."""
SEED = 20260501
MALIGNANT_SHARE = 0.4
DENSITIES = ("fatty", "scattered", "dense")
_OVERSAMPLE = 2


def mammography() -> ImageDataset:
    """Return 1,000 grey pictures of 64 x 64 pixels; the column ``density`` is the tissue's."""

    def records(issues: ImageIssues) -> Iterator[RawPicture]:
        for index in range(NUM_PICTURES):
            image = GeneratedImage(NAME, index, SIDE, SIDE, draw)
            label, density = CLASSES[int(is_malignant(index))], DENSITIES[_density(index)]
            yield RawPicture(image, f"{index:05d}", label, {"density": density})

    return ImageDataset(NAME, "image_classification", CLASSES, records)


def is_malignant(index: int) -> bool:
    """Return the class of a picture."""
    return bool(_generator(index, 0).random() < MALIGNANT_SHARE)


def draw(index: int) -> Image.Image:
    """Draw a picture, mode RGB with three equal channels."""
    rng = _generator(index, 1)
    side = SIDE * _OVERSAMPLE
    tissue = _tissue(rng, side, (0.25, 0.45, 0.65)[_density(index)])
    mass = _mass(rng, side, malignant=is_malignant(index))
    contrast = rng.uniform(0.16, 0.34)
    values = tissue + contrast * mass * (0.8 + 0.4 * _noise(rng, side, 6))
    values += rng.normal(0.0, 0.03, values.shape)
    grey = Image.fromarray((255 * np.clip(values, 0, 1)).astype(np.uint8))
    blurred = grey.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.2)))
    return blurred.resize((SIDE, SIDE), Image.Resampling.BOX).convert("RGB")


def _generator(index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([SEED, purpose, index])


def _density(index: int) -> int:
    return int(_generator(index, 2).integers(len(DENSITIES)))


def _noise(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """Return smooth noise from 0 to 1 with so many cells across, shape (side, side)."""
    coarse = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)


def _tissue(rng: np.random.Generator, side: int, density: float) -> Floats:
    """Return fat with glandular clouds and fibrous strands."""
    clouds = 0.5 * _noise(rng, side, 5) + 0.3 * _noise(rng, side, 11) + 0.2 * _noise(rng, side, 25)
    values = 0.15 + 0.55 * density * clouds
    rows, columns = np.mgrid[:side, :side] / side
    for _ in range(rng.integers(2, 7)):
        angle, offset = rng.uniform(0, math.pi), rng.uniform(0.1, 0.9)
        bend = 0.15 * (_noise(rng, side, 3) - 0.5)
        distance = (rows - 0.5) * math.cos(angle) + (columns - 0.5) * math.sin(angle) + 0.5 + bend
        width = rng.uniform(0.006, 0.016)
        values += rng.uniform(0.05, 0.14) * np.exp(-(((distance - offset) / width) ** 2))
    return np.asarray(values)


def _mass(rng: np.random.Generator, side: int, *, malignant: bool) -> Floats:
    """Return how much of a mass each pixel shows, 0 to 1, shape (side, side)."""
    x, y = rng.uniform(0.35, 0.65, 2)
    rows, columns = np.mgrid[:side, :side] / side
    angle = np.arctan2(rows - y, columns - x)
    reach = np.hypot(rows - y, columns - x)
    tilt, stretch = rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
    oval = np.hypot(np.cos(angle - tilt), np.sin(angle - tilt) / stretch)
    outline = rng.uniform(0.12, 0.2) / oval
    lumps = rng.uniform(0.08, 0.2) if malignant else rng.uniform(0.0, 0.05)
    for order in range(2, 7):
        swing = lumps * rng.normal() / math.sqrt(order)
        outline = outline * (1 + swing * np.cos(order * angle + rng.uniform(0, 2 * math.pi)))
    edge = rng.uniform(0.012, 0.03)
    mass = 1 / (1 + np.exp(np.clip((reach - outline) / edge, -40, 40)))
    if malignant:
        mass = np.maximum(mass, _spicules(rng, angle, reach, outline))
    return np.asarray(mass)


def _spicules(rng: np.random.Generator, angle: Floats, reach: Floats, outline: Floats) -> Floats:
    """Return fine lines that radiate from the margin and fade."""
    rays = np.zeros_like(reach)
    for _ in range(rng.integers(8, 16)):
        bend = rng.normal(0, 0.8)
        direction = rng.uniform(-math.pi, math.pi) + bend * (reach - outline)
        turn = np.angle(np.exp(1j * (angle - direction)))
        across = np.abs(turn) * reach
        length = rng.uniform(0.1, 0.22)
        fade = np.clip(1 - (reach - outline) / length, 0, 1)
        ray = rng.uniform(0.5, 1.0) * fade * np.exp(-((across / 0.013) ** 2))
        rays = np.maximum(rays, np.where(np.abs(turn) < math.pi / 2, ray, 0.0))
    return rays
