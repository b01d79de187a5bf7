from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tasks.semantic_segmentation.schema import SegmentationSchema

CLASSES = ("ground", "square", "disc")
SIZE = (24, 20)  # width, height


def scene(number, size=SIZE):
    """A picture (h, w, 3) and its mask (h, w): a square and a disc on noise."""
    rng = np.random.default_rng(number)
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    x, y = rng.integers(2, width // 2 - 4), rng.integers(2, height - 8)
    mask[y : y + 6, x : x + 6] = 1
    cx, cy = rng.uniform(width * 0.65, width * 0.85), rng.uniform(5, height - 5)
    mask[np.hypot(columns - cx, rows - cy) < 4] = 2
    colours = np.array([[40, 40, 40], [200, 80, 60], [60, 90, 210]])
    picture = np.clip(colours[mask] + rng.normal(0, 12, (height, width, 3)), 0, 255)
    return picture.astype(np.uint8), mask


class Site:
    def __init__(self, root, count=16):
        self.root = root
        self.count = count

    def write(self, convert=lambda mask: mask, sub=""):
        base = self.root / sub
        for folder in ("images", "masks"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for number in range(self.count):
            picture, mask = scene(number)
            Image.fromarray(picture).save(base / "images" / f"s{number:02d}.png")
            image = convert(mask)
            image = image if isinstance(image, Image.Image) else Image.fromarray(image)
            image.save(base / "masks" / f"s{number:02d}.png")
        return self.root


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


@pytest.fixture
def schema_values():
    return {"classes": list(CLASSES), "image_size": 24}


@pytest.fixture
def make_schema(schema_values):
    return lambda **keys: SegmentationSchema.from_mapping(schema_values | keys)
