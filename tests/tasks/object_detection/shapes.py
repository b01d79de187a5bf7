"""An easy set: red squares and blue discs on a dim ground, in YOLO's format."""

from __future__ import annotations

import numpy as np
import yaml
from PIL import Image, ImageDraw

from tasks.contract import DataSource, Partition
from tasks.registry import load_task

CLASSES = ("square", "disc")
SCHEMA = {"classes": list(CLASSES), "image_size": 64}
TINY = {"backbone": "tiny"}
TINY_YOLO = {"config": "yolo11n.yaml", "width": 0.0625}


def write_shapes(root, count=48, side=64, seed=0, empty=(3,), cells=2, sizes=(14, 24)):
    """Write pictures with at most one shape in each of ``cells`` x ``cells`` places."""
    rng = np.random.default_rng(seed)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        ground = rng.integers(40, 90, (side, side, 3)).astype(np.uint8)
        picture = Image.fromarray(ground)
        draw, lines = ImageDraw.Draw(picture), []
        for corner in np.ndindex(cells, cells):
            if (cells > 1 and rng.random() < 0.5) or index in empty:
                continue
            label, size = int(rng.integers(2)), int(rng.integers(*sizes))
            x, y = (int(rng.integers(1, side // cells - size)) + c * side // cells for c in corner)
            shape = [x, y, x + size, y + size]
            if label:
                draw.ellipse(shape, fill=(40, 60, 230))
            else:
                draw.rectangle(shape, fill=(230, 50, 40))
            middle = (x + (size + 1) / 2) / side, (y + (size + 1) / 2) / side
            extent = (size + 1) / side
            lines.append(f"{label} {middle[0]:.6f} {middle[1]:.6f} {extent:.6f} {extent:.6f}")
        picture.save(root / "images" / f"p{index:03d}.png")
        (root / "labels" / f"p{index:03d}.txt").write_text("\n".join(lines))
    manifest = {"path": ".", "train": "images", "names": list(CLASSES)}
    (root / "data.yaml").write_text(yaml.safe_dump(manifest))
    return root / "data.yaml"


def shape_sources(path, count=3):
    return [
        DataSource(f"site{i}", str(path), partition=Partition("iid", count, i))
        for i in range(count)
    ]


def shape_task(**changes):
    return load_task("object_detection", {**SCHEMA, **changes})
