"""Read COCO detection labels: one JSON file for all pictures.

Pictures are looked up by ``file_name`` beside the JSON file, in ``images/`` and in a folder called
like the file, there and one level up. Classes are mapped by category name. Crowd regions
(``iscrowd``) are left out and counted.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks.detection.annotations import RawImage
from tasks.errors import DataError
from tasks.images.read import MAX_PIXELS
from tasks.images.refs import FileImage
from tasks.images.report import ImageReport

_NOT_A_NUMBER = [float("nan")] * 4


def is_coco(path: Path) -> bool:
    """Say whether a path looks like COCO data."""
    return path.suffix.lower() == ".json"


def read_coco(path: Path, report: ImageReport, max_pixels: int = MAX_PIXELS) -> Iterator[RawImage]:
    """Yield every picture of the file with its labels.

    Raises
    ------
    DataError
        If the file is no COCO JSON.
    """
    content = _content(path)
    categories = {c.get("id"): str(c.get("name")) for c in content["categories"]}
    images = _images(content["images"], path, report)
    by_image: dict[Any, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for position, annotation in enumerate(content["annotations"]):
        if annotation.get("image_id") not in images:
            detail = f"annotation {annotation.get('id', position)}"
            report.add("label_without_image", path, detail)
        elif annotation.get("iscrowd"):
            report.add("crowd", path, f"annotation {annotation.get('id', position)}")
        else:
            by_image[annotation["image_id"]].append((position, annotation))
    for key, image in images.items():
        rows = by_image[key]
        picture = _find(path, str(image["file_name"]))
        codes = [annotation.get("category_id") for _, annotation in rows]
        yield RawImage(
            FileImage(picture, max_pixels),
            np.array([_corners(a.get("bbox")) for _, a in rows], dtype=np.float64).reshape(-1, 4),
            tuple(categories.get(code, f"category {code}") for code in codes),
            tuple(f"annotation {a.get('id', position)}" for position, a in rows),
            str(path),
            size=_size(image),
            groups={"folder": picture.parent.name},
        )


def _content(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise DataError(f"{path} is not a readable JSON file ({reason}); export it anew") from None
    keys = ("images", "annotations", "categories")
    for key in keys:
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path} is no COCO file; it needs the lists {', '.join(keys)}")
    return content  # type: ignore[no-any-return]


def _images(
    rows: list[dict[str, Any]], path: Path, report: ImageReport
) -> dict[Any, dict[str, Any]]:
    """Return images by id; a second one of an id or a file name is reported and left out."""
    images: dict[Any, dict[str, Any]] = {}
    seen: set[str] = set()
    for position, row in enumerate(rows):
        name = row.get("file_name")
        if not isinstance(name, str) or not isinstance(row.get("id"), int | str):
            report.add("bad_label", path, f"image {position} lacks id or file_name")
        elif row["id"] in images or name in seen:
            report.add("duplicate_name", path, f"image {row['id']} '{name}'")
        else:
            images[row["id"]] = row
            seen.add(name)
    return images


def _corners(box: Any) -> list[float]:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        return _NOT_A_NUMBER
    return [x, y, x + width, y + height]


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _find(path: Path, name: str) -> Path:
    """Return where a picture is; the first place looked at if it is nowhere."""
    bases = [base / sub for base in (path.parent, path.parent.parent) for sub in _folders(path)]
    places = [base / name for base in bases]
    return next((place for place in places if place.is_file()), places[0])


def _folders(path: Path) -> tuple[str, ...]:
    stem = path.stem.removeprefix("instances_")
    return ("", "images", stem, f"images/{stem}")
