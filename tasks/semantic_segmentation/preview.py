"""A site's own pictures with their masks laid over them, for the site's operator only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from tasks.images.augment import IGNORED
from tasks.images.contact_sheet import MAX_IMAGES, Sheet, Tile, colour, fitted, spread, write_sheet
from tasks.semantic_segmentation.data import Scene, SegmentationData
from tasks.semantic_segmentation.masks import Classes

OPACITY = 0.45


def contact_sheet(
    data: SegmentationData, path: Path, max_images: int = MAX_IMAGES, classes: Sequence[str] = ()
) -> Path:
    """Draw training pictures, each pixel tinted in its class's colour; one without a label is not.

    See ``images.contact_sheet.write_sheet``.
    """
    scenes = data.train.scenes
    sheet = Sheet(data.name, len(scenes), lambda index: _tile(scenes[index]), classes)
    return write_sheet(sheet, path, spread(len(scenes), max_images))


def _tile(scene: Scene) -> Tile:
    picture, mask = scene.image_ref.load(), scene.mask.load()
    labels = [label for label, count in enumerate(scene.counts) if count]
    blind = float((mask == IGNORED).mean())
    name = Path(scene.image_ref.name).name[-30:]
    caption = f"{name}  {picture.width}x{picture.height}"
    if blind:
        caption += f"  {blind:.0%} without label"
    return Tile(_tinted(fitted(picture), mask), caption, labels)


def _tinted(tile: Image.Image, mask: Classes) -> Image.Image:
    codes = np.asarray(Image.fromarray(mask).resize(tile.size, Image.Resampling.NEAREST))
    colours = np.array([ImageColor.getrgb(colour(label)) for label in range(IGNORED)])
    known = (codes != IGNORED)[..., None]
    tint = colours[np.where(codes == IGNORED, 0, codes)]
    values = np.asarray(tile, dtype=np.float64)
    mixed = np.where(known, (1 - OPACITY) * values + OPACITY * tint, values)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
