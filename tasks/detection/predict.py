"""Detections for a folder or file of pictures, as one COCO file.

The file holds ``images``, ``categories`` and ``annotations``, each with a ``score``: pycocotools
reads it as a data set, and its list of annotations as results (``COCO.loadRes``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.detection.coco import is_coco, read_coco
from tasks.detection.network import DetectionModel
from tasks.detection.schema import DetectionSchema
from tasks.detection.voc import is_voc, read_voc
from tasks.detection.yolo import is_yolo, read_yolo
from tasks.errors import DataError
from tasks.images.read import SUFFIXES
from tasks.images.refs import FileImage, ImageRef
from tasks.images.report import ImageReport
from tasks.metrics.detection import Detections

BATCH = 16


@dataclass(frozen=True)
class _Picture:
    key: Any
    name: str
    ref: ImageRef


@dataclass(frozen=True)
class CocoDetections:
    """A COCO data set whose annotations are detections; its length is the number of pictures."""

    content: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.content.get("images", []))

    def to_text(self) -> str:
        """Return the file's content."""
        return json.dumps(self.content, allow_nan=False)


def predict_pictures(model: DetectionModel, path: Path) -> CocoDetections:
    """Detect in every picture of a folder, a COCO, YOLO or VOC data set, or a single file.

    Of a COCO file the numbers of pictures and categories are kept; labels are not needed.

    Raises
    ------
    DataError
        If there are no pictures, or one cannot be read.
    """
    schema = model.schema
    pictures = _pictures(path, schema)
    if not pictures:
        raise DataError(f"{path}: no pictures; give a folder of pictures or a data set")
    codes = _category_codes(path, schema)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture, size, found in _detected(model, pictures):
        images.append(
            {"id": picture.key, "file_name": picture.name, "width": size[0], "height": size[1]}
        )
        for row in _annotations(found, schema.score_threshold):
            row["category_id"] = codes[row["category_id"]]
            annotations.append({"id": len(annotations) + 1, "image_id": picture.key, **row})
    categories = [{"id": codes[i], "name": name} for i, name in enumerate(schema.classes)]
    return CocoDetections({"images": images, "categories": categories, "annotations": annotations})


def _detected(
    model: DetectionModel, pictures: Sequence[_Picture]
) -> Iterator[tuple[_Picture, tuple[int, int], Detections]]:
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        decoded = [picture.ref.load() for picture in part]
        for picture, image, found in zip(part, decoded, model.detect(decoded), strict=True):
            yield picture, image.size, found


def _annotations(found: Detections, threshold: float) -> Iterator[dict[str, Any]]:
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        if score < threshold:
            continue
        x1, y1, x2, y2 = (round(float(value), 3) for value in box)
        width, height = round(x2 - x1, 3), round(y2 - y1, 3)
        yield {
            "category_id": int(label),
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "score": float(score),
        }


def _pictures(path: Path, schema: DetectionSchema) -> list[_Picture]:
    report = ImageReport("drop")
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return [_Picture(1, path.name, FileImage(path, schema.max_pixels))]
    if is_coco(path):
        numbers = {row["file_name"]: row["id"] for row in _rows(path, "images")}
        refs = [raw.image for raw in read_coco(path, report, schema.max_pixels)]
        named = [(_listed(ref.name, numbers), ref) for ref in refs]
        return [_Picture(numbers[name], name, ref) for name, ref in named]
    if is_yolo(path):
        raws = read_yolo(path, schema.classes, report, max_pixels=schema.max_pixels)
        refs = [raw.image for raw in raws]
    elif is_voc(path):
        refs = [raw.image for raw in read_voc(path, report, schema.max_pixels)]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        refs = [FileImage(file, schema.max_pixels) for file in files]
    else:
        raise DataError(f"{path}: no pictures there; give a folder, a picture or a data set")
    base = path if path.is_dir() else path.parent
    return [_Picture(i, _relative(ref.name, base), ref) for i, ref in enumerate(refs, 1)]


def _rows(path: Path, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))[key]
    return [row for row in rows if isinstance(row, dict) and "id" in row]


def _listed(name: str, numbers: dict[str, Any]) -> str:
    """Return the entry of the COCO file that a picture's path ends in, the longest."""
    parts = Path(name).parts
    endings = ("/".join(parts[start:]) for start in range(len(parts)))
    return next(ending for ending in endings if ending in numbers)


def _relative(name: str, base: Path) -> str:
    path = Path(name)
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _category_codes(path: Path, schema: DetectionSchema) -> list[int]:
    """Return each class's category number: the COCO file's, else 1, 2, 3..."""
    codes = list(range(1, len(schema.classes) + 1))
    if not is_coco(path):
        return codes
    index = schema.class_index
    known: dict[int, int] = {}
    for row in _rows(path, "categories"):
        label = index.get(str(row.get("name")))
        if label is not None:
            known.setdefault(label, row["id"])
    first = max([*known.values(), 0]) + 1
    return [known.get(label, first + label) for label in range(len(schema.classes))]
