"""One site's pictures and boxes, read by ``images.site_reader``: what of it is detection's own.

Items hold a reference to their picture and its boxes; pictures are decoded when an item is asked
for its ``image()`` and never kept, so that a site of any size streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import DataError
from tasks.contract import HOLDOUT, DataSource
from tasks.images.issues import ImageIssues
from tasks.images.read import ImageFacts
from tasks.images.site_reader import read_items
from tasks.object_detection.annotations import DetectionItem, RawImage, checked_item
from tasks.object_detection.coco import is_coco, open_coco, read_coco
from tasks.object_detection.schema import DetectionSchema
from tasks.object_detection.voc import is_voc, read_voc
from tasks.object_detection.yolo import has_val, is_yolo, read_yolo
from tasks.sites.data import SiteSplits


class DetectionData(SiteSplits[Sequence[DetectionItem]]):
    """A site's training and holdout pictures (``contract.SiteData``).

    ``train`` and ``holdout`` are sequences of ``DetectionItem``.
    """


@dataclass(frozen=True)
class BoxReader:
    """Pictures with boxes (``site_reader.RecordReader``)."""

    schema: DetectionSchema
    task = "object_detection"
    merge_singles = True

    @property
    def on_invalid(self) -> str:
        """What a bad picture does, unless its site says otherwise."""
        return self.schema.on_invalid

    @property
    def bit_depth(self) -> int | None:
        """Bits that 16-bit pixels use, as the use case declares."""
        return self.schema.bit_depth

    def has_holdout(self, path: Path) -> bool:
        """Say whether a ``data.yaml`` names validation pictures."""
        return is_yolo(path) and has_val(path)

    def records(self, path: Path, split: str, issues: ImageIssues) -> Iterable[RawImage]:
        """Return the pictures of YOLO, COCO or Pascal VOC files."""
        schema = self.schema
        if not path.exists():
            raise DataError(f"{path} does not exist; correct the path")
        if is_coco(path):
            return read_coco(open_coco(path, issues), issues, schema.max_pixels)
        if is_yolo(path):
            part = "val" if split == HOLDOUT and has_val(path) else "train"
            return read_yolo(path, schema.classes, issues, part, schema.max_pixels)
        if is_voc(path):
            return read_voc(path, issues, schema.max_pixels)
        raise DataError(
            f"{path} is no detection data; give a YOLO data.yaml or folder with labels/, a COCO "
            ".json file, or a Pascal VOC folder or ImageSets list"
        )

    def item(
        self, record: RawImage, facts: ImageFacts, issues: ImageIssues
    ) -> DetectionItem | None:
        """Check the boxes."""
        return checked_item(record, facts, self.schema, issues)

    def same_label(self, one: DetectionItem, other: DetectionItem) -> bool:
        """Say whether two copies have the same boxes, in any order."""
        pairs = (zip(i.labels.tolist(), i.boxes.tolist(), strict=True) for i in (one, other))
        return len({tuple(map(str, sorted(boxes))) for boxes in pairs}) == 1

    def strata(self, items: Sequence[DetectionItem]) -> NDArray[np.int64]:
        """Return each picture's kind."""
        return picture_kinds(items, len(self.schema.classes))

    def notes(self, train: Sequence[DetectionItem]) -> list[str]:
        """Name classes without a training box."""
        counts = box_counts(train, len(self.schema.classes)).sum(axis=0)
        absent = [n for n, count in zip(self.schema.classes, counts, strict=True) if not count]
        return [f"no training box of class {', '.join(map(repr, absent))}"] if absent else []


def read_site(source: DataSource, split_seed: int, schema: DetectionSchema) -> DetectionData:
    """Read and split a site's pictures.

    ``source.train`` and ``source.holdout`` are each a YOLO ``data.yaml`` or folder, a COCO JSON
    file, a Pascal VOC folder or list, or ``dataset:NAME``. Without a holdout, the ``val`` pictures
    of a ``data.yaml`` are held out, else ``holdout_fraction`` of every kind of picture
    (``picture_kinds``). Raises as ``images.site_reader.read_items``.
    """
    found = read_items(source, split_seed, BoxReader(schema))
    return DetectionData(
        source.name, found.train, found.holdout, found.notes, validation=found.validation
    )


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
