"""Read pictures and masks from a folder, unchecked.

A source is a folder with ``images/`` and ``masks/``, where a picture and its mask have the same
stem; with ``train/`` in it, training pictures are read from there and held out are those of
``test/`` or else ``val/``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fl_common.errors import DataError
from tasks.contract import HOLDOUT
from tasks.images.image_refs import FileImage, ImageRef
from tasks.images.issues import ImageIssues
from tasks.semantic_segmentation import masks
from tasks.semantic_segmentation.masks import FileMask, MaskRef
from tasks.semantic_segmentation.schema import SegmentationSchema
from tasks.sites.folders import PICTURE_SUFFIXES, files_below


@dataclass(frozen=True)
class RawScene:
    """A picture and its mask as a site's files pair them."""

    image: ImageRef
    mask: MaskRef
    groups: Mapping[str, str] = field(default_factory=dict)


def has_holdout(path: Path) -> bool:
    """Say whether a folder names its own held-out pictures."""
    return (path / "train").is_dir() and any((path / name).is_dir() for name in ("test", "val"))


def read_scenes(
    path: Path, schema: SegmentationSchema, issues: ImageIssues, split: str
) -> Iterator[RawScene]:
    """Yield the pictures of a folder that have a mask.

    Raises
    ------
    DataError
        If it is no folder of pictures and masks.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no folder; give one with images/ and masks/ in site.yaml")
    if (path / "train").is_dir():
        names = ("test", "val") if split == HOLDOUT else ("train",)
        path = next((path / name for name in names if (path / name).is_dir()), path)
    images, labels = path / "images", path / "masks"
    if not images.is_dir() or not labels.is_dir():
        raise DataError(f"{path} has no folders images/ and masks/; a mask has its picture's stem")
    by_stem: dict[str, Path] = {}
    for file in files_below(labels, masks.SUFFIXES):
        if by_stem.setdefault(_stem(file, labels), file) is not file:
            issues.add("duplicate_name", file, "another mask has this stem")
    seen: set[str] = set()
    for file in files_below(images, PICTURE_SUFFIXES):
        stem = _stem(file, images)
        if stem in seen:
            issues.add("duplicate_name", file, "another picture has this stem")
        elif stem not in by_stem:
            issues.add("image_without_mask", file)
        else:
            yield RawScene(FileImage(file, schema.max_pixels), FileMask(by_stem[stem], schema))
        seen.add(stem)
    for stem, file in by_stem.items():
        if stem not in seen:
            issues.add("mask_without_image", file)


def _stem(file: Path, root: Path) -> str:
    return file.relative_to(root).with_suffix("").as_posix()
