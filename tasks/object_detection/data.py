"""One site's pictures and boxes: read, checked, cut by partition, split into training and holdout.

Items hold a reference to their picture and its boxes; pictures are decoded when an item is asked
for its ``image()`` and never kept, so that a site of any size streams. Reading decodes every
picture once, to find bad files before the first round instead of in the seventh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, SchemaError
from tasks.contract import DataSource, Partition
from tasks.images.checked_items import DATASET, Pool, require_two, usable
from tasks.images.datasets import load_image_dataset
from tasks.images.issues import MAX_NAMED, ImageReport, on_invalid
from tasks.object_detection.annotations import DetectionItem, RawImage, checked_item
from tasks.object_detection.coco import CocoFile, is_coco, open_coco, read_coco, unlisted
from tasks.object_detection.schema import DetectionSchema
from tasks.object_detection.voc import is_voc, read_voc
from tasks.object_detection.yolo import has_val, is_yolo, read_yolo
from tasks.sites.data import SiteSplits
from tasks.sites.file_version import file_version
from tasks.sites.partition import partition_rows
from tasks.sites.splits import split_rows

TASK = "object_detection"


class DetectionData(SiteSplits[Sequence[DetectionItem]]):
    """A site's training and holdout pictures (``contract.SiteData``).

    ``train`` and ``holdout`` are sequences of ``DetectionItem``.
    """


def read_site(source: DataSource, split_seed: int, schema: DetectionSchema) -> DetectionData:
    """Read and split a site's pictures.

    ``source.train`` and ``source.holdout`` are each a YOLO ``data.yaml`` or folder, a COCO JSON
    file, a Pascal VOC folder or list, or ``dataset:NAME``. Without a holdout, the ``val`` pictures
    of a ``data.yaml`` are held out, else ``holdout_fraction`` of the pictures by seed, so that
    every kind of picture (``picture_kinds``) holds out its share. A partition cuts both alike.

    Raises
    ------
    DataError, SchemaError
        Naming file and cure; under ``on_invalid: refuse`` with the first bad files of each kind.
    ConfigError
        If ``holdout_fraction`` is not within (0, 1).
    """
    schema = replace(schema, on_invalid=on_invalid(source, schema))
    pool = _read(source, source.train, schema)
    notes = list(pool.notes)
    held = _holdout(source, schema)
    if held is not None:
        train, holdout = pool.items, held.items
        notes += [f"holdout: {note}" for note in held.notes]
        both = {item.name for item in train} & {item.name for item in holdout}
        if both:
            notes.append(f"{len(both)} pictures are in training and holdout ({min(both)}, ...)")
    else:
        require_two(pool, source.train, source.name)
        seed = split_seed if source.split_seed is None else source.split_seed
        kept, out = _split(pool, len(schema.classes), source.holdout_fraction, seed)
        train = pool.take(kept)
        holdout = pool.take(out)
    return DetectionData(source.name, train, holdout, notes + _class_notes(train, schema))


def box_counts(items: Iterable[DetectionItem], num_classes: int) -> NDArray[np.int64]:
    """Count boxes by picture and class, shape (n, c)."""
    rows = [np.bincount(item.labels, minlength=num_classes) for item in items]
    return np.array(rows, dtype=np.int64).reshape(-1, num_classes)


def picture_kinds(items: Sequence[DetectionItem], num_classes: int) -> NDArray[np.int64]:
    """Return one class for each picture, by which a partition skews and a split stratifies.

    It is the class of which the picture holds the largest share of all boxes: a picture with one
    of ten buses is a bus picture, however many of a thousand cars it shows. c is background.
    """
    counts = box_counts(items, num_classes).astype(np.float64)
    shares = counts / np.maximum(counts.sum(axis=0), 1.0)
    return np.where(counts.sum(axis=1) > 0, shares.argmax(axis=1), num_classes)


def _split(
    pool: Pool[DetectionItem], num_classes: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    size = len(pool.items)
    if pool.ordered and 0 < fraction < 1:
        first = size - min(max(round(size * fraction), 1), size - 1)
        return np.arange(first), np.arange(first, size)
    kinds = picture_kinds(pool.items, num_classes)
    rare = np.bincount(kinds, minlength=num_classes + 1) == 1
    kinds[rare[kinds]] = num_classes + 1  # kinds of one picture are shared out together
    return split_rows(size, kinds, fraction, seed)


def _holdout(source: DataSource, schema: DetectionSchema) -> Pool[DetectionItem] | None:
    if source.holdout is not None:
        return _read(source, source.holdout, schema)
    path = Path(source.train)
    if not source.train.startswith(DATASET) and is_yolo(path) and has_val(path):
        return _read(source, source.train, schema, "val")
    return None


def _read(
    source: DataSource, name: str, schema: DetectionSchema, split: str = "train"
) -> Pool[DetectionItem]:
    if source.partition is None:
        return _pool(name, schema, split)
    pool = _shared_pool(name, file_version(name), schema, split)
    rows = _cut(pool, name, source.partition, len(schema.classes))
    return replace(pool, items=pool.take(rows))


@lru_cache(maxsize=4)
def _shared_pool(
    name: str, changed: object, schema: DetectionSchema, split: str
) -> Pool[DetectionItem]:
    """Read pictures that many simulated sites are cut from, once per process."""
    return _pool(name, schema, split)


def _pool(name: str, schema: DetectionSchema, split: str) -> Pool[DetectionItem]:
    report = ImageReport(schema.on_invalid)
    records, ordered, notes = _open(name, schema, split, report)
    found = (checked_item(raw, schema, report) for raw in records)
    pool = usable(name, found, report, ordered=ordered)
    return replace(pool, notes=(*pool.notes, *notes))


def _open(
    name: str, schema: DetectionSchema, split: str, report: ImageReport
) -> tuple[Iterable[RawImage], bool, list[str]]:
    """Return pictures, whether neighbours are alike, and what the operator should know."""
    if name.startswith(DATASET):
        dataset = load_image_dataset(name.removeprefix(DATASET))
        if dataset.task != TASK:
            raise ConfigError(f"{name} is for the task {dataset.task}, not {TASK}")
        return dataset.records(report), dataset.ordered, []
    path = Path(name)
    if not path.exists():
        raise DataError(f"{name} does not exist; correct the path in site.yaml")
    if is_coco(path):
        file = open_coco(path, report)
        return read_coco(file, report, schema.max_pixels), False, _unlisted_note(file)
    if is_yolo(path):
        return read_yolo(path, schema.classes, report, split, schema.max_pixels), False, []
    if is_voc(path):
        return read_voc(path, report, schema.max_pixels), False, []
    raise DataError(
        f"{name} is no detection data; give a YOLO data.yaml or folder with labels/, a COCO .json "
        "file, or a Pascal VOC folder or ImageSets list"
    )


def _unlisted_note(file: CocoFile) -> list[str]:
    strays = [str(stray) for stray in unlisted(file)]
    if not strays:
        return []
    named = ", ".join(strays[:MAX_NAMED]) + (", ..." if len(strays) > MAX_NAMED else "")
    return [f"{len(strays)} images are listed in no JSON file; they are not used ({named})"]


def _cut(
    pool: Pool[DetectionItem], name: str, partition: Partition, num_classes: int
) -> NDArray[np.int64]:
    column = None
    if partition.column is not None and partition.kind == "column":
        known = sorted({key for item in pool.items for key in item.groups})
        if partition.column not in known:
            raise SchemaError(
                f"{name}: pictures have no column '{partition.column}' of partition.column; "
                f"choose from {', '.join(known) or 'none'}"
            )
        column = np.array([item.groups.get(partition.column) for item in pool.items], dtype=object)
    kinds = picture_kinds(pool.items, num_classes)
    return np.asarray(partition_rows(kinds, column, partition), dtype=np.int64)


def _class_notes(train: Sequence[DetectionItem], schema: DetectionSchema) -> list[str]:
    counts = box_counts(train, len(schema.classes)).sum(axis=0)
    absent = [name for name, count in zip(schema.classes, counts, strict=True) if not count]
    return [f"no training box of class {', '.join(map(repr, absent))}"] if absent else []
