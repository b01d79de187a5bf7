"""A site's own pictures with the names of their classes, for the site's operator only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.image_classification.data import ImageData, Picture
from tasks.images.contact_sheet import (
    MAX_IMAGES,
    Sheet,
    Tile,
    class_name,
    fitted,
    spread,
    write_sheet,
)


def contact_sheet(
    data: ImageData, path: Path, max_images: int = MAX_IMAGES, classes: Sequence[str] = ()
) -> Path:
    """Draw training pictures, each framed in its class's colour and named.

    Every class has its share, so that a rare one is seen too. See
    ``images.contact_sheet.write_sheet``.
    """
    pictures = data.train.pictures
    sheet = Sheet(data.name, len(pictures), lambda i: _tile(pictures[i], classes), classes)
    return write_sheet(sheet, path, _chosen(data.train.labels, max_images))


def _chosen(labels: NDArray[np.int64], max_images: int) -> list[int]:
    """Return numbers of pictures, by class: in turn one of each until there are enough."""
    waiting = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    quota = [0] * len(waiting)
    left = len(spread(len(labels), max_images))
    while left:
        for place, rows in enumerate(waiting):
            if left and quota[place] < len(rows):
                quota[place] += 1
                left -= 1
    picked = zip(waiting, quota, strict=True)
    return [int(rows[i]) for rows, count in picked if count for i in spread(len(rows), count)]


def _tile(picture: Picture, classes: Sequence[str]) -> Tile:
    image = picture.image_ref.load()
    name = Path(picture.image_ref.name).name[-30:]
    caption = f"{class_name(picture.label, classes)}  {name}  {image.width}x{image.height}"
    return Tile(fitted(image), caption, [picture.label], picture.label)
