"""Detections for a folder or file of pictures, as one COCO file.

The file holds ``images``, ``categories`` and ``annotations``, each with a ``score``: pycocotools
reads it as a data set, and its list of annotations as results (``COCO.loadRes``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fl_common.errors import DataError, FileWriteError
from fl_common.files import write_atomically
from tasks.images.image_refs import FileImage
from tasks.images.issues import ImageIssues
from tasks.images.read import BadImageError
from tasks.metrics.detection import Detections
from tasks.object_detection.coco import is_coco, open_coco
from tasks.object_detection.network import DetectionModel
from tasks.object_detection.pixels import Square
from tasks.object_detection.schema import DetectionSchema
from tasks.object_detection.voc import is_voc, voc_pictures
from tasks.object_detection.yolo import is_yolo, yolo_pictures
from tasks.sites.folders import PICTURE_SUFFIXES, files_below

BATCH = 16
MAX_NAMED = 20


@dataclass(frozen=True)
class _Picture:
    key: Any
    name: str
    ref: FileImage


@dataclass(frozen=True)
class _Request:
    """What to look at.

    Parameters
    ----------
    codes : sequence of int or str
        Number of each class in the file that is written.
    bad : list of str
        Pictures that cannot be used, and why.
    """

    pictures: Sequence[_Picture]
    codes: Sequence[int | str]
    bad: list[str]
    notes: list[str]


@dataclass(frozen=True)
class CocoDetections:
    """A COCO data set whose annotations are detections; its length is the number of pictures.

    Parameters
    ----------
    notes : sequence of str
        What was read, and what was left out.
    """

    content: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.content.get("images", []))

    def above(self, threshold: float) -> CocoDetections:
        """Return the boxes of at least this score, numbered anew."""
        kept = [row for row in self.content["annotations"] if row["score"] >= threshold]
        rows = [{**row, "id": number} for number, row in enumerate(kept, 1)]
        return replace(self, content={**self.content, "annotations": rows})

    def to_text(self) -> str:
        """Return the file's content."""
        return json.dumps(self.content, allow_nan=False)

    def write(self, out: Path) -> str:
        """Write the file, whole or not at all, and say what is in it.

        Raises
        ------
        DataError
            If it cannot be written.
        """
        if not out.parent.is_dir():
            raise DataError(f"{out}: cannot be written: there is no folder {out.parent}")
        try:
            write_atomically(out, self.to_text().encode())
        except FileWriteError as error:
            raise DataError(str(error)) from None
        boxes = len(self.content["annotations"])
        return "\n".join([f"{boxes} boxes in {len(self)} pictures: {out}", *self.notes])


def predict_pictures(model: DetectionModel, path: Path) -> CocoDetections:
    """Detect in every picture of a folder, a COCO, YOLO or VOC data set, or a single file.

    Every detection that the evaluation counts is there, from the lowest score on, so that a metric
    computed from the file is the reported one. Of a COCO file the numbers of pictures and
    categories are kept; labels are not needed, nor looked at. Under the use case's ``on_invalid:
    drop`` a picture that cannot be read is left out.

    Raises
    ------
    DataError
        If there are no pictures, or, naming them, some cannot be read; under ``drop`` if none can.
    """
    schema = model.schema
    request = _request(path, schema)
    if not request.pictures and not request.bad:
        raise DataError(f"{path}: no pictures; give a folder of pictures or a data set")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for picture, square, found in _detected(model, request):
        size = {"width": square.width, "height": square.height}
        images.append({"id": picture.key, "file_name": picture.name, **size})
        for row in _annotations(found):
            row["category_id"] = request.codes[row["category_id"]]
            annotations.append({"id": len(annotations) + 1, "image_id": picture.key, **row})
    if request.bad and (schema.on_invalid == "refuse" or not images):
        raise DataError(f"{path}: {_left_out(request.bad)}; mend them or move them away")
    notes = [*request.notes, *([f"left out: {_left_out(request.bad)}"] if request.bad else [])]
    categories = [{"id": request.codes[i], "name": name} for i, name in enumerate(schema.classes)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    return CocoDetections(content, tuple(notes))


def _detected(
    model: DetectionModel, request: _Request
) -> Iterator[tuple[_Picture, Square, Detections]]:
    """Yield each picture's detections; name every bad one, although one is enough to refuse."""
    for start in range(0, len(request.pictures), BATCH):
        part = request.pictures[start : start + BATCH]
        refused = bool(request.bad) and model.schema.on_invalid == "refuse"
        squares: list[tuple[_Picture, Square]] = []
        for picture in part:
            try:
                if refused:
                    picture.ref.inspect()
                else:
                    squares.append((picture, model.boxed(picture.ref.load())))
            except BadImageError as error:
                request.bad.append(str(error))
        if squares:
            found = model.detect([square for _, square in squares])
            for (picture, square), detections in zip(squares, found, strict=True):
                yield picture, square, detections


def _left_out(bad: Sequence[str]) -> str:
    more = f"; and {len(bad) - MAX_NAMED} more" if len(bad) > MAX_NAMED else ""
    return f"{len(bad)} pictures cannot be used ({'; '.join(bad[:MAX_NAMED])}{more})"


def _annotations(found: Detections) -> Iterator[dict[str, Any]]:
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        x1, y1, x2, y2 = (round(float(value), 3) for value in box)
        width, height = round(x2 - x1, 3), round(y2 - y1, 3)
        yield {
            "category_id": int(label),
            "bbox": [x1, y1, width, height],
            "area": round(width * height, 3),
            "iscrowd": 0,
            "score": float(score),
        }


def _request(path: Path, schema: DetectionSchema) -> _Request:
    if is_coco(path):
        return _coco_request(path, schema)
    files, split = _files(path)
    base = path if path.is_dir() else path.parent
    pictures = [
        _Picture(
            number, _relative(file, base), FileImage(file, schema.max_pixels, schema.bit_depth)
        )
        for number, file in enumerate(files, 1)
    ]
    notes = [f"read: the {split} pictures of {path}"] if split else []
    return _Request(pictures, range(1, len(schema.classes) + 1), [], notes)


def _coco_request(path: Path, schema: DetectionSchema) -> _Request:
    issues = ImageIssues("drop")
    file = open_coco(path, issues, labels=False)
    pictures = [
        _Picture(
            key,
            row["file_name"],
            FileImage(file.pictures[key], schema.max_pixels, schema.bit_depth),
        )
        for key, row in file.images.items()
    ]
    index = schema.class_index
    known: dict[int, int | str] = {}
    for code, name in file.categories.items():
        label = index.get(name)
        if label is not None:
            known.setdefault(label, code)
    free = max([code for code in file.categories if isinstance(code, int)], default=0) + 1
    codes = [known.get(label, free + label) for label in range(len(schema.classes))]
    return _Request(pictures, codes, [str(issue) for issue in issues.found], [])


def _files(path: Path) -> tuple[list[Path], str]:
    """Return pictures, and which split of a ``data.yaml`` they are."""
    if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES:
        return [path], ""
    if is_yolo(path):
        return yolo_pictures(path)
    if is_voc(path):
        return voc_pictures(path), ""
    if path.is_dir():
        return files_below(path, PICTURE_SUFFIXES), ""
    raise DataError(f"{path}: no pictures there; give a folder, a picture or a data set")


def _relative(file: Path, base: Path) -> str:
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name
