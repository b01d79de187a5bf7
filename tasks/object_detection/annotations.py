"""One picture's labels as a file gives them, and the checks that make them usable.

Every reader yields ``RawImage``; ``checked_item`` turns it into a ``DetectionItem`` or leaves it
out, and adds every finding to the issues.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.images.image_refs import ImageRef
from tasks.images.issues import ImageIssues
from tasks.images.read import ImageFacts
from tasks.object_detection.schema import DetectionSchema

CLIP_TOLERANCE = 1e-3
"""Pixels by which a box may overshoot before it counts as clipped (rounding in text files)."""
NO_GROUPS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class RawImage:
    """A picture and its labels, unchecked.

    Parameters
    ----------
    boxes : array, shape (n, 4), float64
        Corners x1, y1, x2, y2: pixels, or shares of width and height if ``relative``.
    names : sequence of str, length n
        Class of each box, as the file says it.
    places : sequence of str, length n
        Where each box stands, for messages.
    label_file : str
        File of the boxes, for messages.
    size : (width, height) or None
        As the annotation states it.
    groups : mapping of str to str
        Columns by which a partition can cut (``folder``, ``sequence``).
    """

    image: ImageRef
    boxes: NDArray[np.float64]
    names: tuple[str, ...]
    places: tuple[str, ...]
    label_file: str
    relative: bool = False
    size: tuple[int, int] | None = None
    groups: Mapping[str, str] = field(default_factory=lambda: NO_GROUPS)


@dataclass(frozen=True, eq=False)
class DetectionItem:
    """A picture, not decoded, with checked boxes.

    Parameters
    ----------
    image_ref : ImageRef
        ``image_ref.load()`` decodes the picture: upright, mode RGB.
    boxes : array, shape (n, 4), float32, pixels of the upright picture
        Corners x1 < x2, y1 < y2, within the picture. n may be 0: background.
    labels : array, shape (n,), int64, in [0, c)
    width, height : int, pixels
    groups : mapping of str to str
    """

    image_ref: ImageRef
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    width: int
    height: int
    groups: Mapping[str, str] = field(default_factory=lambda: NO_GROUPS)

    @property
    def name(self) -> str:
        """What identifies the picture to the site's operator."""
        return self.image_ref.name

    def image(self) -> Image.Image:
        """Decode the picture; nothing keeps it.

        Raises
        ------
        BadImageError
            If the file has vanished or changed since it was checked.
        """
        return self.image_ref.load()


def checked_item(
    raw: RawImage, facts: ImageFacts, schema: DetectionSchema, issues: ImageIssues
) -> DetectionItem | None:
    """Check a picture's boxes against its size, and report every finding.

    Returns
    -------
    DetectionItem or None
        None if the annotation is of a picture of another size.
    """
    if raw.size is not None and raw.size != (facts.width, facts.height):
        stated = f"{raw.size[0]} x {raw.size[1]}"
        detail = f"says {stated}, {raw.image.name} has {facts.width} x {facts.height} pixels"
        issues.add("size_mismatch", raw.label_file, detail)
        return None
    boxes, labels = _checked_boxes(raw, facts, schema, issues)
    if not len(boxes):
        issues.add("background", raw.image.name)
    return DetectionItem(raw.image, boxes, labels, facts.width, facts.height, raw.groups)


def _checked_boxes(
    raw: RawImage, facts: ImageFacts, schema: DetectionSchema, issues: ImageIssues
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    limits = np.array([facts.width, facts.height] * 2, dtype=np.float64)
    corners = raw.boxes.reshape(-1, 4) * (limits if raw.relative else 1.0)
    inside = np.clip(corners, 0.0, limits).astype(np.float32)
    index = schema.class_index
    kept: dict[tuple[object, ...], int] = {}
    for row, name in enumerate(raw.names):
        kind, detail = _fault(corners[row], inside[row])
        label = index.get(name)
        if name not in index:
            kind, detail = "unknown_class", f"'{name}'"
        elif label is None:
            kind, detail = "ignored_class", f"'{name}'"
        elif not kind and (key := (label, *inside[row].tolist())) in kept:
            kind, detail = "duplicate_box", ""
        elif not kind:
            kept[key] = row
            if np.abs(inside[row] - corners[row]).max() > CLIP_TOLERANCE:
                kind, detail = "box_clipped", _shown(corners[row])
        if kind:
            where = f"{raw.places[row]} {detail}".strip()
            issues.add(kind, raw.label_file, where)
    rows = list(kept.values())
    labels = np.array([key[0] for key in kept], dtype=np.int64)
    return inside[rows].reshape(-1, 4), labels


def _fault(corners: NDArray[np.float64], inside: NDArray[np.float32]) -> tuple[str, str]:
    """Return what is wrong with a box, and how it shows; empty texts if nothing is."""
    if not np.isfinite(corners).all():
        return "box_not_finite", _shown(corners)
    x1, y1, x2, y2 = corners.tolist()
    if x2 < x1 or y2 < y1:
        return "box_inverted", _shown(corners)
    if x2 == x1 or y2 == y1:
        return "box_empty", _shown(corners)
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        return "box_outside", _shown(corners)
    return "", ""


def _shown(corners: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in corners) + "]"
