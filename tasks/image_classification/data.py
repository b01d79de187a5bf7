"""One site's labelled pictures, read by ``images.site_reader``: what of it is classification's own.

A picture is a reference; it is decoded in its mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_common.words import quoted
from tasks.contract import DataSource
from tasks.image_classification.pictures import RawPicture, has_holdout, read_pictures
from tasks.image_classification.schema import ImageSchema
from tasks.images.image_refs import ImageRef
from tasks.images.issues import ImageIssues
from tasks.images.loader import PixelLoader
from tasks.images.pixels import Geometry
from tasks.images.read import ImageFacts
from tasks.images.site_reader import column_values, read_items
from tasks.sites.data import SiteSplits


@dataclass(frozen=True)
class Picture:
    """A usable picture and its class number."""

    image_ref: ImageRef
    name: str
    label: int
    groups: Mapping[str, str] = field(default_factory=dict)


class PictureSplit:
    """Pictures of one split, and their pixels as a model sees them."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures = pictures
        self.labels: NDArray[np.int64] = np.array([p.label for p in pictures], dtype=np.int64)
        self._loaders: dict[Geometry, PixelLoader] = {}

    def __len__(self) -> int:
        return len(self.pictures)

    def loader(self, geometry: Geometry) -> PixelLoader:
        """Return what decodes the pictures to a geometry; made once."""
        if geometry not in self._loaders:
            images = [picture.image_ref for picture in self.pictures]
            self._loaders = {geometry: PixelLoader(images, geometry)}
        return self._loaders[geometry]


class ImageData(SiteSplits[PictureSplit]):
    """A site's training and holdout pictures (``contract.SiteData``)."""

    def __init__(
        self,
        name: str,
        train: PictureSplit,
        holdout: PictureSplit,
        notes: Sequence[str],
        schema: ImageSchema,
        *,
        validation: PictureSplit | None = None,
    ) -> None:
        super().__init__(name, train, holdout, notes, validation=validation)
        self._schema = schema

    def subgroup_rows(self, split: str) -> dict[str, int]:
        """Pictures of each declared subgroup; a site's policy may hold small ones back."""
        return {name: int(member.sum()) for name, member in self.members(split).items()}

    def members(self, split: str) -> dict[str, NDArray[np.bool_]]:
        """Return which pictures of a split belong to each subgroup, each of shape (n,)."""
        found, part = {}, self.split(split)
        for group in self._schema.subgroups:
            if group.label is not None:
                found[group.name] = part.labels == self._schema.classes.index(group.label)
            else:
                values = column_values(part.pictures, str(group.column))
                found[group.name] = np.isin(values.astype(str), group.values)
        return found


@dataclass(frozen=True)
class PictureReader:
    """Pictures with one class each (``site_reader.RecordReader``)."""

    schema: ImageSchema
    task = "image_classification"
    merge_singles = False

    @property
    def on_invalid(self) -> str:
        """What a bad picture does, unless its site says otherwise."""
        return self.schema.on_invalid

    @property
    def bit_depth(self) -> int | None:
        """Bits that 16-bit pixels use, as the use case declares."""
        return self.schema.bit_depth

    def has_holdout(self, path: Path) -> bool:
        """Say whether a source names its own held-out pictures."""
        return has_holdout(path, self.schema)

    def records(self, path: Path, split: str, issues: ImageIssues) -> Iterable[RawPicture]:
        """Return the pictures of a folder, manifest or ``.npz`` file."""
        return read_pictures(path, self.schema, issues, split)

    def item(self, record: RawPicture, facts: ImageFacts, issues: ImageIssues) -> Picture | None:
        """Look the class up."""
        name = record.image.name
        label = None if record.label is None else self.schema.class_index.get(record.label)
        if label is None:
            kind = "bad_label" if record.label is None else "unknown_class"
            known = quoted(self.schema.classes, 6)
            issues.add(kind, name, f"class '{record.label or ''}' is not one of {known}")
            return None
        return Picture(record.image, record.name, label, record.groups)

    def same_label(self, one: Picture, other: Picture) -> bool:
        """Say whether two copies are of one class."""
        return one.label == other.label

    def strata(self, items: Sequence[Picture]) -> NDArray[np.int64]:
        """Return each picture's class."""
        return np.array([item.label for item in items], dtype=np.int64)

    def notes(self, train: Sequence[Picture]) -> list[str]:
        """Name classes without a training picture."""
        classes = self.schema.classes
        counts = np.bincount(self.strata(train), minlength=len(classes))
        absent = [name for name, count in zip(classes, counts, strict=True) if not count]
        if len(absent) == len(classes) - 1:
            return [f"the training pictures have one class only: '{classes[counts.argmax()]}'"]
        return [f"no training picture of class {quoted(absent)}"] if absent else []


def read_site(source: DataSource, split_seed: int, schema: ImageSchema) -> ImageData:
    """Read and split a site's pictures; see ``pictures`` for what a source may be.

    Raises as ``images.site_reader.read_items``.
    """
    found = read_items(source, split_seed, PictureReader(schema))
    return ImageData(
        source.name,
        PictureSplit(found.train),
        PictureSplit(found.holdout),
        found.notes,
        schema,
        validation=PictureSplit(found.validation) if found.validation else None,
    )
