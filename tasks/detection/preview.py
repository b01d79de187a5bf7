"""A contact sheet of a site's own pictures with their boxes, for the site's operator only.

The sheet is written to the site's disk, readable by its owner alone, and is part of no message.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.detection.annotations import DetectionItem
from tasks.detection.data import DetectionData
from tasks.errors import ConfigError, DataError

TILE = 320
GAP = 6
CAPTION = 16
LEGEND = 26
_PALETTE = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4"),
    *("#42d4f4", "#f032e6", "#bfef45", "#ffe119", "#469990"),
)


def contact_sheet(
    data: DetectionData, path: Path, max_images: int = 24, classes: Sequence[str] = ()
) -> Path:
    """Draw training pictures with their boxes, evenly spread over the site's list.

    Parameters
    ----------
    path : Path
        PNG to write; replaced if it exists, with permissions for its owner only.
    max_images : int, 1 to 400
    classes : sequence of str
        Names for the legend; without them the class numbers.

    Raises
    ------
    ConfigError
        If ``max_images`` is out of range.
    DataError
        If a picture has vanished, or the sheet cannot be written.

    Notes
    -----
    Privacy: shows the site's pictures. Never send it.
    """
    if not 1 <= max_images <= 400:
        raise ConfigError(f"max_images is {max_images}; expected 1 to 400")
    count = min(max_images, data.num_train)
    chosen = np.linspace(0, data.num_train - 1, count).round().astype(int).tolist()
    columns = math.ceil(math.sqrt(count * 1.3))
    rows = math.ceil(count / columns)
    step = TILE + GAP, TILE + GAP + CAPTION
    sheet = Image.new("RGB", (columns * step[0] + GAP, rows * step[1] + GAP + LEGEND), "#20242a")
    for place, index in enumerate(chosen):
        corner = GAP + place % columns * step[0], GAP + LEGEND + place // columns * step[1]
        _paste_tile(sheet, data.train[index], corner)
    used = {int(label) for index in chosen for label in data.train[index].labels}
    _legend(sheet, sorted(used), classes, f"site {data.name}: {count} of {data.num_train}")
    _write(sheet, path)
    return path


def colour(label: int) -> str:
    """Return the colour of a class, as a hexadecimal code; ten colours, then again."""
    return _PALETTE[label % len(_PALETTE)]


def _paste_tile(sheet: Image.Image, item: DetectionItem, corner: tuple[int, int]) -> None:
    picture = item.image()
    ratio = TILE / max(picture.size)
    size = max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)
    tile = picture.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(tile)
    scale = np.array([size[0] / picture.width, size[1] / picture.height] * 2)
    for box, label in zip(item.boxes * scale, item.labels.tolist(), strict=True):
        draw.rectangle(box.tolist(), outline=colour(label), width=1)
    left, top = corner[0] + (TILE - size[0]) // 2, corner[1] + (TILE - size[1]) // 2
    sheet.paste(tile, (left, top))
    caption = f"{Path(item.name).name[-36:]}  {item.width}x{item.height}  {len(item.labels)} boxes"
    font = ImageFont.load_default(11)
    place = corner[0], corner[1] + TILE + 1
    ImageDraw.Draw(sheet).text(place, _latin(caption), fill="#c8ccd2", font=font)


def _legend(sheet: Image.Image, labels: list[int], classes: Sequence[str], title: str) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    draw.text((GAP, 8), _latin(title), fill="#ffffff", font=font)
    left = GAP + draw.textlength(_latin(title), font=font) + 18
    for label in labels:
        name = _latin(classes[label] if label < len(classes) else f"class {label}")
        draw.rectangle([left, 11, left + 10, 21], fill=colour(label))
        draw.text((left + 14, 8), name, fill="#ffffff", font=font)
        left += 14 + draw.textlength(name, font=font) + 12


def _latin(text: str) -> str:
    """Replace what the built-in font cannot show."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _write(sheet: Image.Image, path: Path) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            sheet.save(file, "PNG")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); check the folder") from None
