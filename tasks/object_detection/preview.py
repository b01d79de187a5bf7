"""A site's own pictures with their boxes, for the site's operator only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ImageDraw

from tasks.images.contact_sheet import MAX_IMAGES, Sheet, Tile, colour, fitted, spread, write_sheet
from tasks.object_detection.annotations import DetectionItem
from tasks.object_detection.data import DetectionData


def contact_sheet(
    data: DetectionData, path: Path, max_images: int = MAX_IMAGES, classes: Sequence[str] = ()
) -> Path:
    """Draw training pictures with their boxes, evenly spread over the site's list.

    See ``images.contact_sheet.write_sheet``.
    """
    items = data.train
    sheet = Sheet(data.name, len(items), lambda index: _tile(items[index]), classes)
    return write_sheet(sheet, path, spread(len(items), max_images))


def _tile(item: DetectionItem) -> Tile:
    picture = item.image()
    tile = fitted(picture)
    draw, labels = ImageDraw.Draw(tile), item.labels.tolist()
    scale = np.array([tile.width / picture.width, tile.height / picture.height] * 2)
    for box, label in zip(item.boxes * scale, labels, strict=True):
        draw.rectangle(box.tolist(), outline=colour(label), width=1)
    name = Path(item.name).name[-36:]
    caption = f"{name}  {item.width}x{item.height}  {len(labels)} boxes"
    return Tile(tile, caption, labels)
