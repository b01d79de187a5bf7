"""A contact sheet of a site's own pictures with their labels, for the site's operator only.

The sheet is written to the site's disk, readable by its owner alone, and is part of no message.
Each image task says what its tiles show; layout, legend and file are made here.
"""

from __future__ import annotations

import colorsys
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fl_common.errors import ConfigError, DataError

TILE = 320
GAP = 6
CAPTION = 16
LINE = 18
MAX_IMAGES = 24
_PALETTE = (
    *("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4"),
    *("#42d4f4", "#f032e6", "#bfef45", "#ffe119", "#469990"),
)
_GOLDEN = 0.618034
"""Steps of this share of the circle never come close to an earlier hue."""


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet.

    Parameters
    ----------
    picture : Image
        At most ``TILE`` pixels wide and high, with its labels drawn.
    caption : str
    labels : sequence of int
        Classes that it shows, for the legend.
    mark : int or None
        Class in whose colour the tile is framed.
    """

    picture: Image.Image
    caption: str
    labels: Sequence[int] = ()
    mark: int | None = None


@dataclass(frozen=True)
class Sheet:
    """What stands on the sheet.

    Parameters
    ----------
    site : str
    size : int
        How many pictures the site has.
    tile : callable
        From a picture's number to its tile.
    classes : sequence of str
        Names for the legend; without them the class numbers.
    """

    site: str
    size: int
    tile: Callable[[int], Tile]
    classes: Sequence[str] = ()


def spread(size: int, max_images: int) -> list[int]:
    """Return numbers of pictures that are evenly spread over a list of ``size``.

    Raises
    ------
    ConfigError
        If ``max_images`` is not within 1 to 400.
    """
    if not 1 <= max_images <= 400:
        raise ConfigError(f"max_images is {max_images}; expected 1 to 400")
    count = min(max_images, size)
    return [int(place) for place in np.linspace(0, size - 1, count).round()]


def write_sheet(sheet: Sheet, path: Path, chosen: Sequence[int]) -> Path:
    """Draw the pictures of these numbers.

    Parameters
    ----------
    path : Path
        PNG to write; replaced if it exists, with permissions for its owner only.

    Raises
    ------
    ConfigError
        If the path does not end in ``.png``.
    DataError
        If a picture has vanished, or the sheet cannot be written.

    Notes
    -----
    Privacy: shows the site's pictures. Never send it.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--preview: {path} is no PNG; give a path that ends in .png")
    tiles = [sheet.tile(index) for index in chosen]
    used = sorted({label for tile in tiles for label in tile.labels})
    title = f"site {sheet.site}: {len(tiles)} of {sheet.size}"
    _write(_drawn(tiles, _Legend(title, used, sheet.classes)), path)
    return path


def colour(label: int) -> str:
    """Return the colour of a class, as a hexadecimal code; no two of the first hundred agree."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    rgb = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.75, (0.95, 0.65)[label % 2])
    return "#" + "".join(f"{round(255 * value):02x}" for value in rgb)


def fitted(picture: Image.Image) -> Image.Image:
    """Return a picture or a mask's colours in a tile's size; few pixels stay square pixels."""
    ratio = TILE / max(picture.size)
    size = max(round(picture.width * ratio), 1), max(round(picture.height * ratio), 1)
    small = Image.Resampling.NEAREST if ratio >= 2 else Image.Resampling.LANCZOS
    return picture.resize(size, small)


def class_name(label: int, classes: Sequence[str]) -> str:
    """Return a class's name, or its number where it has none."""
    return classes[label] if label < len(classes) else f"class {label}"


@dataclass(frozen=True)
class _Legend:
    title: str
    labels: Sequence[int]
    classes: Sequence[str]

    def rows(self, width: int) -> list[list[tuple[int | None, str, float]]]:
        """Lay label, text and left edge out in lines of ``width`` pixels."""
        font = ImageFont.load_default(13)
        lines: list[list[tuple[int | None, str, float]]] = [[(None, _latin(self.title), GAP)]]
        left = GAP + font.getlength(_latin(self.title)) + 18
        for label in self.labels:
            name = _latin(class_name(label, self.classes))
            needed = 14 + font.getlength(name)
            if left + needed > width - GAP and left > GAP:
                lines.append([])
                left = float(GAP)
            lines[-1].append((label, name, left))
            left += needed + 12
        return lines

    def draw(self, sheet: Image.Image) -> None:
        """Draw the lines at the top."""
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
        for number, line in enumerate(self.rows(sheet.width)):
            top = 8 + number * LINE
            for label, text, left in line:
                if label is not None:
                    draw.rectangle([left, top + 3, left + 10, top + 13], fill=colour(label))
                draw.text((left + (14 if label is not None else 0), top), text, "#ffffff", font)


def _drawn(tiles: Sequence[Tile], legend: _Legend) -> Image.Image:
    columns = min(len(tiles), math.ceil(math.sqrt(len(tiles) * 1.3)))
    rows = math.ceil(len(tiles) / columns)
    width, step = columns * (TILE + GAP) + GAP, TILE + GAP + CAPTION
    head = 8 + len(legend.rows(width)) * LINE
    sheet = Image.new("RGB", (width, rows * step + GAP + head), "#20242a")
    legend.draw(sheet)
    for place, tile in enumerate(tiles):
        corner = GAP + place % columns * (TILE + GAP), GAP + head + place // columns * step
        _paste(sheet, tile, corner)
    return sheet


def _paste(sheet: Image.Image, tile: Tile, corner: tuple[int, int]) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    size = tile.picture.size
    left, top = corner[0] + (TILE - size[0]) // 2, corner[1] + (TILE - size[1]) // 2
    sheet.paste(tile.picture, (left, top))
    if tile.mark is not None:
        frame = [left - 3, top - 3, left + size[0] + 2, top + size[1] + 2]
        draw.rectangle(frame, outline=colour(tile.mark), width=3)
    caption = _latin(tile.caption)
    while caption and font.getlength(caption) > TILE:
        caption = caption[:-1]
    draw.text((corner[0], corner[1] + TILE + 3), caption, fill="#c8ccd2", font=font)


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
