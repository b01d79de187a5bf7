"""One site's pictures and masks: read, checked, cut by partition, split.

A source is a folder with ``images/`` and ``masks/``, where a picture and its mask have the same
stem; with ``train/`` in it, training pictures are read from there and held out are those of
``test/`` or else ``val/``. References are kept, not pixels; reading decodes every file once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_common.errors import ConfigError, DataError, SchemaError
from fl_common.words import quoted, suggest
from tasks.contract import Array, DataSource
from tasks.images.augment import IGNORED
from tasks.images.checked_items import DATASET, Pool, require_two, usable
from tasks.images.datasets import load_image_dataset
from tasks.images.image_refs import FileImage, ImageRef
from tasks.images.issues import ImageReport, on_invalid
from tasks.images.loader import PixelLoader
from tasks.images.pixels import Geometry
from tasks.images.read import BadImageError
from tasks.semantic_segmentation import masks
from tasks.semantic_segmentation.masks import BadMaskError, FileMask, MaskRef, class_counts
from tasks.semantic_segmentation.schema import SegmentationSchema
from tasks.sites.data import SiteSplits
from tasks.sites.file_version import file_version
from tasks.sites.folders import PICTURE_SUFFIXES, files_below
from tasks.sites.partition import partition_rows
from tasks.sites.splits import split_rows

TASK = "semantic_segmentation"


@dataclass(frozen=True)
class RawScene:
    """A picture and its mask as a site's files pair them."""

    image: ImageRef
    mask: MaskRef
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """A usable picture, its mask, and how many of its pixels each class has."""

    image: ImageRef
    mask: MaskRef
    counts: tuple[int, ...]
    groups: Mapping[str, str] = field(default_factory=dict)


class MaskLoader(PixelLoader):
    """Masks in the size that a model sees, shape (b, 1, h, w); borders are without a label."""

    def __init__(self, scenes: Sequence[Scene], geometry: Geometry) -> None:
        super().__init__([], Geometry(geometry.size, 1, geometry.fit), len(scenes))
        self._scenes = scenes

    def _decode(self, index: int) -> NDArray[np.uint8]:
        mask = Image.fromarray(self._scenes[index].mask.load())
        square = self._geometry.square(mask, border=IGNORED)
        return np.array(square, dtype=np.uint8)[None]


class Split:
    """Scenes of one split, and their pixels as a model sees them."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self.scenes = scenes
        self._loaders: dict[Geometry, tuple[PixelLoader, MaskLoader]] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def counts(self) -> NDArray[np.int64]:
        """Count pixels by picture and class, shape (n, c)."""
        return np.array([scene.counts for scene in self.scenes], dtype=np.int64)

    def loaders(self, geometry: Geometry) -> tuple[PixelLoader, MaskLoader]:
        """Return what decodes pictures and masks to a geometry; made once."""
        if geometry not in self._loaders:
            pictures = PixelLoader([scene.image for scene in self.scenes], geometry)
            self._loaders = {geometry: (pictures, MaskLoader(self.scenes, geometry))}
        return self._loaders[geometry]


class SegmentationData(SiteSplits[Split]):
    """A site's training and holdout pictures with their masks."""


def read_site(source: DataSource, split_seed: int, schema: SegmentationSchema) -> SegmentationData:
    """Read and split a site's pictures; a partition cuts training and holdout alike.

    Raises
    ------
    DataError, SchemaError
        Naming file and cure; under ``on_invalid: refuse`` with the first bad files of each kind.
    ConfigError
        If ``holdout_fraction`` is not within (0, 1).
    """
    schema = replace(schema, on_invalid=on_invalid(source, schema))
    pool = _read(source, source.train, schema, holdout=False)
    notes = list(pool.notes)
    held = _holdout(source, schema)
    if held is not None:
        train, holdout = pool.items, held.items
        notes += [f"holdout: {note}" for note in held.notes]
    else:
        require_two(pool, source.train, source.name)
        seed = split_seed if source.split_seed is None else source.split_seed
        kinds = scene_kinds(pool.items)
        rare = np.bincount(kinds) == 1
        kinds[rare[kinds]] = len(rare)  # kinds of one picture are shared out together
        kept, out = split_rows(len(kinds), kinds, source.holdout_fraction, seed)
        train = pool.take(kept)
        holdout = pool.take(out)
    counts = Split(train).counts().sum(axis=0)
    absent = [name for name, count in zip(schema.classes, counts, strict=True) if not count]
    if absent:
        notes.append(f"no training pixel of class {quoted(absent)}")
    return SegmentationData(source.name, Split(train), Split(holdout), notes)


def scene_kinds(scenes: Sequence[Scene]) -> NDArray[np.int64]:
    """Return the class of which each picture holds the largest share of all pixels."""
    counts = np.array([scene.counts for scene in scenes], dtype=np.float64)
    return np.asarray((counts / np.maximum(counts.sum(axis=0), 1.0)).argmax(axis=1))


def _holdout(source: DataSource, schema: SegmentationSchema) -> Pool[Scene] | None:
    if source.holdout is not None:
        return _read(source, source.holdout, schema, holdout=True)
    path = Path(source.train)
    named = (path / "test").is_dir() or (path / "val").is_dir()
    if not source.train.startswith(DATASET) and (path / "train").is_dir() and named:
        return _read(source, source.train, schema, holdout=True)
    return None


def _read(
    source: DataSource, name: str, schema: SegmentationSchema, *, holdout: bool
) -> Pool[Scene]:
    if source.partition is None:
        return _pool(name, schema, holdout)
    pool = _shared_pool(name, file_version(name), schema, holdout)
    column = None
    if source.partition.kind == "column" and source.partition.column is not None:
        column = _column(pool.items, source.partition.column)
    rows = partition_rows(scene_kinds(pool.items), column, source.partition)
    return replace(pool, items=pool.take(rows))


@lru_cache(maxsize=4)
def _shared_pool(
    name: str, changed: object, schema: SegmentationSchema, holdout: bool
) -> Pool[Scene]:
    """Read pictures that many simulated sites are cut from, once per process."""
    return _pool(name, schema, holdout)


def _pool(name: str, schema: SegmentationSchema, holdout: bool) -> Pool[Scene]:
    report = ImageReport(schema.on_invalid)
    found = (_checked(raw, schema, report) for raw in _open(name, schema, report, holdout))
    return usable(name, found, report)


def _open(
    name: str, schema: SegmentationSchema, report: ImageReport, holdout: bool
) -> Iterable[RawScene]:
    if not name.startswith(DATASET):
        return _folder(Path(name), schema, report, holdout)
    dataset = load_image_dataset(name.removeprefix(DATASET))
    if dataset.task != TASK:
        raise ConfigError(f"{name} is for the task {dataset.task}, not {TASK}")
    return dataset.records(report)


def _folder(
    path: Path, schema: SegmentationSchema, report: ImageReport, holdout: bool
) -> Iterator[RawScene]:
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give one with images/ and masks/ in site.yaml")
    if (path / "train").is_dir():
        names = ("test", "val") if holdout else ("train",)
        path = next((path / name for name in names if (path / name).is_dir()), path)
    images, labels = path / "images", path / "masks"
    if not images.is_dir() or not labels.is_dir():
        raise DataError(f"{path} has no folders images/ and masks/; a mask has its picture's stem")
    by_stem: dict[str, Path] = {}
    for file in files_below(labels, masks.SUFFIXES):
        if by_stem.setdefault(_stem(file, labels), file) is not file:
            report.add("duplicate_name", file, "another mask has this stem")
    seen: set[str] = set()
    for file in files_below(images, PICTURE_SUFFIXES):
        stem = _stem(file, images)
        if stem in seen:
            report.add("duplicate_name", file, "another picture has this stem")
        elif stem not in by_stem:
            report.add("image_without_mask", file)
        else:
            yield RawScene(FileImage(file, schema.max_pixels), FileMask(by_stem[stem], schema))
        seen.add(stem)
    for stem, file in by_stem.items():
        if stem not in seen:
            report.add("mask_without_image", file)


def _stem(file: Path, root: Path) -> str:
    return file.relative_to(root).with_suffix("").as_posix()


def _checked(raw: RawScene, schema: SegmentationSchema, report: ImageReport) -> Scene | None:
    """Return a scene whose files can be decoded and belong together; report any other."""
    try:
        facts = raw.image.inspect()
    except BadImageError as error:
        report.add(error.kind, raw.image.name, error.detail)
        return None
    for kind in facts.conversions:
        report.add(kind, raw.image.name)
    try:
        mask = raw.mask.load()
    except BadMaskError as error:
        report.add(error.kind, raw.mask.name, error.detail)
        return None
    height, width = mask.shape
    if (width, height) != (facts.width, facts.height):
        detail = f"{width} x {height} pixels, its image {facts.width} x {facts.height}"
        report.add("mask_size", raw.mask.name, detail)
        return None
    if "exif_rotated" in facts.conversions and isinstance(raw.image, FileImage):
        report.add("mask_rotated", raw.image.name, "save the picture upright, without EXIF")
        return None
    counts = class_counts(mask, len(schema.classes))
    if not counts.any():
        report.add("mask_empty", raw.mask.name)
        return None
    return Scene(raw.image, raw.mask, tuple(counts.tolist()), raw.groups)


def _column(scenes: Sequence[Scene], name: str) -> Array:
    known = sorted({key for scene in scenes for key in scene.groups})
    if name not in known:
        raise SchemaError(f"pictures have no column '{name}'{suggest(name, known)}")
    return np.array([scene.groups.get(name) for scene in scenes], dtype=object)
