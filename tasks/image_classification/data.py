"""One site's labelled pictures: read, checked, cut by partition, split into training and holdout.

A picture is a reference; it is decoded in its mini-batch. Reading decodes every file once, to find
bad ones before the first round instead of in the seventh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, SchemaError
from fl_common.words import quoted, suggest
from tasks.contract import Array, DataSource
from tasks.image_classification.pictures import (
    HOLDOUT,
    TRAIN,
    RawPicture,
    has_holdout,
    read_pictures,
)
from tasks.image_classification.schema import ImageSchema
from tasks.images.checked_items import DATASET, Pool, require_two, usable
from tasks.images.datasets import load_image_dataset
from tasks.images.image_refs import ImageRef
from tasks.images.issues import ImageReport, on_invalid
from tasks.images.loader import PixelLoader
from tasks.images.pixels import Geometry
from tasks.images.read import BadImageError
from tasks.sites.data import SiteSplits
from tasks.sites.file_version import file_version
from tasks.sites.partition import partition_rows
from tasks.sites.splits import split_rows

TASK = "image_classification"


@dataclass(frozen=True)
class Picture:
    """A usable picture and its class number."""

    image: ImageRef
    name: str
    label: int
    groups: Mapping[str, str] = field(default_factory=dict)


class Split:
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
            images = [picture.image for picture in self.pictures]
            self._loaders = {geometry: PixelLoader(images, geometry)}
        return self._loaders[geometry]


class ImageData(SiteSplits[Split]):
    """A site's training and holdout pictures (``contract.SiteData``)."""

    def __init__(
        self, name: str, splits: tuple[Split, Split], notes: Sequence[str], schema: ImageSchema
    ) -> None:
        super().__init__(name, *splits, notes)
        self._schema = schema

    @property
    def subgroup_rows(self) -> dict[str, int]:
        """Held-out pictures of each declared subgroup; a site's policy may hold small ones back."""
        return {name: int(member.sum()) for name, member in self.members().items()}

    def members(self) -> dict[str, NDArray[np.bool_]]:
        """Return which held-out pictures belong to each subgroup, each of shape (n,)."""
        found = {}
        for group in self._schema.subgroups:
            if group.label is not None:
                found[group.name] = self.holdout.labels == self._schema.classes.index(group.label)
            else:
                values = _column(self.holdout.pictures, str(group.column))
                found[group.name] = np.isin(values.astype(str), group.values)
        return found


def read_site(source: DataSource, split_seed: int, schema: ImageSchema) -> ImageData:
    """Read and split a site's pictures; see ``pictures`` for what a source may be.

    Where neither a holdout nor the source itself names held-out pictures, ``holdout_fraction`` of
    each class is held out by seed. A partition cuts training and holdout alike.

    Raises
    ------
    DataError, SchemaError
        Naming file and cure; under ``on_invalid: refuse`` with the first bad files of each kind.
    ConfigError
        If ``holdout_fraction`` is not within (0, 1).
    """
    schema = replace(schema, on_invalid=on_invalid(source, schema))
    pool = _read(source, source.train, schema, TRAIN)
    notes = list(pool.notes)
    held = _holdout(source, schema)
    if held is not None:
        train, holdout = Split(pool.items), Split(held.items)
        notes += [f"holdout: {note}" for note in held.notes]
        both = {p.image.name for p in pool.items} & {p.image.name for p in held.items}
        if both:
            notes.append(f"{len(both)} pictures are in training and holdout ({min(both)}, ...)")
    else:
        require_two(pool, source.train, source.name)
        seed = split_seed if source.split_seed is None else source.split_seed
        labels = Split(pool.items).labels
        kept, out = split_rows(len(labels), labels, source.holdout_fraction, seed)
        train = Split(pool.take(kept))
        holdout = Split(pool.take(out))
    return ImageData(source.name, (train, holdout), notes + _class_notes(train, schema), schema)


def _holdout(source: DataSource, schema: ImageSchema) -> Pool[Picture] | None:
    if source.holdout is not None:
        return _read(source, source.holdout, schema, HOLDOUT)
    if not source.train.startswith(DATASET) and has_holdout(Path(source.train), schema):
        return _read(source, source.train, schema, HOLDOUT)
    return None


def _read(source: DataSource, name: str, schema: ImageSchema, split: str) -> Pool[Picture]:
    if source.partition is None:
        return _pool(name, schema, split)
    pool = _shared_pool(name, file_version(name), schema, split)
    column = None
    if source.partition.kind == "column" and source.partition.column is not None:
        column = _column(pool.items, source.partition.column)
    labels = Split(pool.items).labels
    rows = partition_rows(labels, column, source.partition)
    return replace(pool, items=pool.take(rows))


@lru_cache(maxsize=4)
def _shared_pool(name: str, changed: object, schema: ImageSchema, split: str) -> Pool[Picture]:
    """Read pictures that many simulated sites are cut from, once per process."""
    return _pool(name, schema, split)


def _pool(name: str, schema: ImageSchema, split: str) -> Pool[Picture]:
    report = ImageReport(schema.on_invalid)
    found = (_checked(raw, schema, report) for raw in _open(name, schema, split, report))
    return usable(name, found, report)


def _open(name: str, schema: ImageSchema, split: str, report: ImageReport) -> Iterable[RawPicture]:
    if not name.startswith(DATASET):
        return read_pictures(Path(name), schema, report, split)
    dataset = load_image_dataset(name.removeprefix(DATASET))
    if dataset.task != TASK:
        raise ConfigError(f"{name} is for the task {dataset.task}, not {TASK}")
    return dataset.records(report)


def _checked(raw: RawPicture, schema: ImageSchema, report: ImageReport) -> Picture | None:
    """Return a picture whose file can be decoded and whose class exists; report any other."""
    label = None if raw.label is None else schema.class_index.get(raw.label)
    if label is None:
        kind = "bad_label" if raw.label is None else "unknown_class"
        known = quoted(schema.classes, 6)
        report.add(kind, raw.image.name, f"class '{raw.label or ''}' is not one of {known}")
    try:
        facts = raw.image.inspect()
    except BadImageError as error:
        report.add(error.kind, raw.image.name, error.detail)
        return None
    for kind in facts.conversions:
        report.add(kind, raw.image.name)
    return None if label is None else Picture(raw.image, raw.name, label, raw.groups)


def _column(pictures: Sequence[Picture], name: str) -> Array:
    known = {key for picture in pictures for key in picture.groups}
    if name not in known:
        raise SchemaError(
            f"pictures have no column '{name}'{suggest(name, sorted(known)) or '; give a manifest'}"
        )
    return np.array([picture.groups.get(name) for picture in pictures], dtype=object)


def _class_notes(train: Split, schema: ImageSchema) -> list[str]:
    counts = np.bincount(train.labels, minlength=len(schema.classes))
    absent = [name for name, count in zip(schema.classes, counts, strict=True) if not count]
    if len(absent) == len(schema.classes) - 1:
        only = schema.classes[int(counts.argmax())]
        return [f"the training pictures have one class only: '{only}'"]
    return [f"no training picture of class {quoted(absent)}"] if absent else []
