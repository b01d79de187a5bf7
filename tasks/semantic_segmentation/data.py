"""One site's pictures and masks, read by ``images.site_reader``: what of it is segmentation's own.

References are kept, not pixels; see ``scenes`` for what a source may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_common.words import quoted
from tasks.contract import DataSource
from tasks.images.augment import IGNORED
from tasks.images.image_refs import FileImage, ImageRef
from tasks.images.issues import ImageIssues
from tasks.images.loader import PixelLoader
from tasks.images.pixels import Geometry
from tasks.images.read import ImageFacts
from tasks.images.site_reader import read_items
from tasks.semantic_segmentation.masks import BadMaskError, MaskRef, class_counts
from tasks.semantic_segmentation.scenes import RawScene, has_holdout, read_scenes
from tasks.semantic_segmentation.schema import SegmentationSchema
from tasks.sites.data import SiteSplits


@dataclass(frozen=True)
class Scene:
    """A usable picture, its mask, and how many of its pixels each class has."""

    image_ref: ImageRef
    mask: MaskRef
    counts: tuple[int, ...]
    groups: Mapping[str, str] = field(default_factory=dict)


class MaskLoader(PixelLoader):
    """Masks in the size that a model sees, shape (b, 1, h, w); borders are without a label."""

    def __init__(self, scenes: Sequence[Scene], geometry: Geometry) -> None:
        super().__init__([], Geometry(geometry.size, 1, geometry.resize), len(scenes))
        self._scenes = scenes

    def _decode(self, index: int) -> NDArray[np.uint8]:
        mask = Image.fromarray(self._scenes[index].mask.load())
        square = self._geometry.square(mask, border=IGNORED)
        return np.array(square, dtype=np.uint8)[None]


class SceneSplit:
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
            pictures = PixelLoader([scene.image_ref for scene in self.scenes], geometry)
            self._loaders = {geometry: (pictures, MaskLoader(self.scenes, geometry))}
        return self._loaders[geometry]


class SegmentationData(SiteSplits[SceneSplit]):
    """A site's training and holdout pictures with their masks."""


@dataclass(frozen=True)
class MaskReader:
    """Pictures with a mask each (``site_reader.RecordReader``)."""

    schema: SegmentationSchema
    task = "semantic_segmentation"
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
        """Say whether a folder names its own held-out pictures."""
        return has_holdout(path)

    def records(self, path: Path, split: str, issues: ImageIssues) -> Iterable[RawScene]:
        """Return the pictures of a folder that have a mask."""
        return read_scenes(path, self.schema, issues, split)

    def item(self, record: RawScene, facts: ImageFacts, issues: ImageIssues) -> Scene | None:
        """Read the mask; it must fit its picture and label a pixel."""
        try:
            mask = record.mask.load()
        except BadMaskError as error:
            issues.add(error.kind, record.mask.name, error.detail)
            return None
        height, width = mask.shape
        if (width, height) != (facts.width, facts.height):
            detail = f"{width} x {height} pixels, its image {facts.width} x {facts.height}"
            issues.add("mask_size", record.mask.name, detail)
            return None
        if "exif_rotated" in facts.conversions and isinstance(record.image, FileImage):
            issues.add("mask_rotated", record.image.name, "save the picture upright, without EXIF")
            return None
        counts = class_counts(mask, len(self.schema.classes))
        if not counts.any():
            issues.add("mask_empty", record.mask.name)
            return None
        return Scene(record.image, record.mask, tuple(counts.tolist()), record.groups)

    def same_label(self, one: Scene, other: Scene) -> bool:
        """Say whether two copies have the same mask."""
        return np.array_equal(one.mask.load(), other.mask.load())

    def strata(self, items: Sequence[Scene]) -> NDArray[np.int64]:
        """Return each picture's kind."""
        return scene_kinds(items)

    def notes(self, train: Sequence[Scene]) -> list[str]:
        """Name classes without a training pixel."""
        counts = SceneSplit(train).counts().sum(axis=0)
        absent = [n for n, count in zip(self.schema.classes, counts, strict=True) if not count]
        return [f"no training pixel of class {quoted(absent)}"] if absent else []


def read_site(source: DataSource, split_seed: int, schema: SegmentationSchema) -> SegmentationData:
    """Read and split a site's pictures; of every kind (``scene_kinds``) a share is held out.

    Raises as ``images.site_reader.read_items``.
    """
    found = read_items(source, split_seed, MaskReader(schema))
    return SegmentationData(
        source.name,
        SceneSplit(found.train),
        SceneSplit(found.holdout),
        found.notes,
        validation=SceneSplit(found.validation) if found.validation else None,
    )


def scene_kinds(scenes: Sequence[Scene]) -> NDArray[np.int64]:
    """Return the class of which each picture holds the largest share of all pixels."""
    counts = np.array([scene.counts for scene in scenes], dtype=np.float64)
    return np.asarray((counts / np.maximum(counts.sum(axis=0), 1.0)).argmax(axis=1))
