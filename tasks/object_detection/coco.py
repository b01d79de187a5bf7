"""Read COCO detection labels: one JSON file for all pictures.

Pictures are looked up by ``file_name`` beside the JSON file, in ``images/`` and in a folder called
like the file, there and one level up. Classes are mapped by category name. Crowd regions
(``iscrowd``) are left out and counted. Numbers of pictures and categories may be integers or texts.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fl_common.errors import DataError
from tasks.images.image_refs import FileImage
from tasks.images.issues import ImageIssues
from tasks.images.read import MAX_PIXELS
from tasks.object_detection.annotations import RawImage
from tasks.sites.folders import PICTURE_SUFFIXES

Key = int | str
_NOT_A_NUMBER = [float("nan")] * 4


@dataclass(frozen=True)
class CocoFile:
    """A file's checked rows.

    Parameters
    ----------
    categories : mapping of int or str to str
        Names by number.
    images : mapping of int or str to dict
        Rows by number, each with a ``file_name``.
    pictures : mapping of int or str to Path
        Where each image is; the first place looked at if it is nowhere.
    annotations : sequence of dict
        Unchecked; empty where labels are not asked for.
    """

    path: Path
    categories: dict[Key, str]
    images: dict[Key, dict[str, Any]]
    pictures: dict[Key, Path]
    annotations: list[dict[str, Any]]


def is_coco(path: Path) -> bool:
    """Say whether a path looks like COCO data."""
    return path.suffix.lower() == ".json"


def open_coco(path: Path, issues: ImageIssues, *, labels: bool = True) -> CocoFile:
    """Read and check a file's pictures and categories.

    Parameters
    ----------
    labels : bool
        Without, the lists of annotations and categories may be absent, as in ``image_info`` files,
        and faults of categories are none.

    Raises
    ------
    DataError
        If the file is no COCO JSON.
    """
    content = _content(path, ("images", "annotations", "categories") if labels else ("images",))
    categories = {}
    for position, row in enumerate(content["categories"]):
        key = _key(row.get("id"))
        if key is not None:
            categories[key] = str(row.get("name"))
        elif labels:
            issues.add("bad_label", path, f"category {position} has the id {_shown(row.get('id'))}")
    images = _images(content["images"], path, issues)
    pictures = {key: _find(path, image["file_name"]) for key, image in images.items()}
    return CocoFile(path, categories, images, pictures, content["annotations"])


def read_coco(
    file: CocoFile, issues: ImageIssues, max_pixels: int = MAX_PIXELS
) -> Iterator[RawImage]:
    """Yield every picture of the file with its labels."""
    by_image = _annotations(file, issues)
    for key, image in file.images.items():
        rows, picture = by_image[key], file.pictures[key]
        yield RawImage(
            FileImage(picture, max_pixels),
            np.array([_corners(a.get("bbox")) for _, a in rows], dtype=np.float64).reshape(-1, 4),
            tuple(_class_name(file, a.get("category_id")) for _, a in rows),
            tuple(_place(a, position) for position, a in rows),
            str(file.path),
            size=_size(image),
            groups={"folder": picture.parent.name},
        )
    for stray in unlisted(file):
        issues.add("not_in_json", stray)


def unlisted(file: CocoFile) -> list[Path]:
    """Return pictures beside the file's own that neither it nor another JSON beside it lists."""
    listed = set(file.pictures.values())
    folders = {picture.parent for picture in listed if picture.parent.is_dir()}
    beside = {
        p for folder in folders for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES
    }
    strays = beside - listed
    for other in sorted(file.path.parent.glob("*.json")) if strays else ():
        if other != file.path:
            with suppress(DataError):  # some other JSON
                strays.difference_update(
                    open_coco(other, ImageIssues(), labels=False).pictures.values()
                )
    return sorted(strays)


def _content(path: Path, needed: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: also a too long number
        reason = str(error).splitlines()[0][:100]
        raise DataError(f"{path} is not a readable JSON file ({reason}); export it anew") from None
    rows: dict[str, list[dict[str, Any]]] = {}
    for key in ("images", "annotations", "categories"):
        given = content.get(key) if isinstance(content, dict) else None
        if given is None and key not in needed:
            given = []
        if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
            wanted = f"lists {', '.join(needed)}" if len(needed) > 1 else f"list {needed[0]}"
            raise DataError(f"{path} is no COCO file; it needs the {wanted}")
        rows[key] = given
    return rows


def _images(
    rows: list[dict[str, Any]], path: Path, issues: ImageIssues
) -> dict[Key, dict[str, Any]]:
    """Return images by id; a second one of an id or a file name is reported and left out."""
    images: dict[Key, dict[str, Any]] = {}
    seen: set[str] = set()
    for position, row in enumerate(rows):
        name, key = row.get("file_name"), _key(row.get("id"))
        if not isinstance(name, str) or key is None:
            issues.add("bad_label", path, f"image {position} lacks id or file_name")
        elif key in images or name in seen:
            issues.add("duplicate_name", path, f"image {key} '{name}'")
        else:
            images[key] = row
            seen.add(name)
    return images


def _annotations(
    file: CocoFile, issues: ImageIssues
) -> defaultdict[Key, list[tuple[int, dict[str, Any]]]]:
    """Return what is marked in each picture, with its position in the file."""
    by_image: defaultdict[Key, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for position, annotation in enumerate(file.annotations):
        key, place = _key(annotation.get("image_id")), _place(annotation, position)
        if key is None:
            given = _shown(annotation.get("image_id"))
            issues.add("bad_label", file.path, f"{place} has the image_id {given}")
        elif key not in file.images:
            issues.add("label_without_image", file.path, place)
        elif annotation.get("iscrowd"):
            issues.add("crowd", file.path, place)
        else:
            by_image[key].append((position, annotation))
    return by_image


def _key(value: Any) -> Key | None:
    """Return a number of a picture or category; None if it is neither an integer nor a text.

    Tables with gaps write whole numbers as 5.0.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _class_name(file: CocoFile, code: Any) -> str:
    key = _key(code)
    unknown = f"category {_shown(code)}"
    return unknown if key is None else file.categories.get(key, unknown)


def _place(annotation: dict[str, Any], position: int) -> str:
    return f"annotation {_shown(annotation.get('id', position))}"


def _shown(value: Any) -> str:
    return str(value)[:40]


def _corners(box: Any) -> list[float]:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        return _NOT_A_NUMBER
    return [x, y, x + width, y + height]


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _find(path: Path, name: str) -> Path:
    """Return where a picture is; the first place looked at if it is nowhere."""
    bases = [base / sub for base in (path.parent, path.parent.parent) for sub in _folders(path)]
    places = [base / name for base in bases]
    # os.path.isfile: a name too long for the file system is no file, where Path would raise
    return next((place for place in places if os.path.isfile(place)), places[0])


def _folders(path: Path) -> tuple[str, ...]:
    stem = path.stem.removeprefix("instances_")
    return ("", "images", stem, f"images/{stem}")
