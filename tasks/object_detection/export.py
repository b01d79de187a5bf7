"""Write a site's pictures and boxes as COCO."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.images.export import given_splits, write_picture
from tasks.object_detection.annotations import DetectionItem
from tasks.object_detection.data import DetectionData


def export_site(data: DetectionData, classes: Sequence[str], folder: Path) -> dict[str, str]:
    """Write ``{train,validation,holdout}.json`` and a folder of pictures for each; order is kept.

    Only checked boxes are written, cut at their picture's edge. Coordinates are float32 in the
    file's double precision, so reading gives the same ones.

    Returns
    -------
    dict
        The files of ``site.yaml``.
    """
    splits = given_splits(data)
    for name, items in splits.items():
        content = _coco(items, classes, folder / name)
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return {name: f"{name}.json" for name in splits}


def _coco(items: Sequence[DetectionItem], classes: Sequence[str], folder: Path) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        file = write_picture(item.image_ref, folder, number).name
        size = {"width": item.width, "height": item.height}
        images.append({"id": number, "file_name": file, **size})
        for box, label in zip(item.boxes.tolist(), item.labels.tolist(), strict=True):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            row = {"id": len(annotations), "image_id": number, "category_id": label}
            row |= {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            annotations.append(row)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
