"""Box overlap, and COCO's greedy matching of detections to ground truth.

Boxes are ``(x1, y1, x2, y2)`` in pixels, corners exclusive of any "+1": a box covers
``(x2 - x1) * (y2 - y1)``. Everything is computed in float64, in the order of pycocotools' C code,
so that an overlap that lies on a threshold falls on the same side.

References
----------
COCO evaluation, ``pycocotools/cocoeval.py`` (``evaluateImg``) and ``common/maskApi.c`` (``bbIou``).
Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, arXiv:1902.09630.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def pairwise_iou(detected: NDArray[Any], truth: NDArray[Any]) -> Floats:
    """Return the intersection over union of every pair, shape (d, g), in [0, 1].

    A box without area, or with its corners swapped, overlaps nothing.

    >>> pairwise_iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3)
    array([[0.333, 0.   ]])
    """
    one = np.asarray(detected, np.float64)[:, None, :]
    two = np.asarray(truth, np.float64)[None, :, :]
    common = _area(np.maximum(one[..., :2], two[..., :2]), np.minimum(one[..., 2:], two[..., 2:]))
    union = _area(one[..., :2], one[..., 2:]) + _area(two[..., :2], two[..., 2:]) - common
    return np.divide(common, union, out=np.zeros_like(union), where=common > 0)


def matched_overlap(detected: NDArray[Any], truth: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return IoU and generalised IoU of box i of one array with box i of the other, shape (n,).

    GIoU is IoU minus the share of the smallest enclosing box that neither covers; in (-1, 1].
    """
    one, two = np.asarray(detected, np.float64), np.asarray(truth, np.float64)
    common = _area(np.maximum(one[:, :2], two[:, :2]), np.minimum(one[:, 2:], two[:, 2:]))
    union = _area(one[:, :2], one[:, 2:]) + _area(two[:, :2], two[:, 2:]) - common
    hull = _area(np.minimum(one[:, :2], two[:, :2]), np.maximum(one[:, 2:], two[:, 2:]))
    iou = np.divide(common, union, out=np.zeros_like(union), where=common > 0)
    empty = np.divide(hull - union, hull, out=np.zeros_like(hull), where=hull > 0)
    return iou, iou - empty


def greedy_match(overlap: Floats, thresholds: Floats) -> Indices:
    """Give each detection, best score first, the free ground truth that it overlaps most.

    Parameters
    ----------
    overlap : array, shape (d, g), float64
        IoU of detections, sorted by falling score, with the ground truth of one image and class.
    thresholds : array, shape (t,), float64, ascending
        Least IoU of a match; every threshold is matched on its own.

    Returns
    -------
    array, shape (t, d), int64
        Column of the ground truth, or -1. Of equal overlaps the last is taken, as in COCO. The
        first k columns are the match of the best k detections alone.
    """
    num_detected, num_truth = overlap.shape
    matched = np.full((len(thresholds), num_detected), -1, dtype=np.int64)
    if num_truth == 0:
        return matched
    free = np.ones((len(thresholds), num_truth), dtype=bool)
    for row in np.flatnonzero(overlap.max(axis=1, initial=-1.0) >= thresholds[0]):
        able = free & (overlap[row] >= thresholds[:, None])  # (t, g)
        offers = np.where(able, overlap[row], -1.0)
        taken = num_truth - 1 - offers[:, ::-1].argmax(axis=1)
        hits = np.flatnonzero(able.any(axis=1))
        matched[hits, row] = taken[hits]
        free[hits, taken[hits]] = False
    return matched


def _area(low: Floats, high: Floats) -> Floats:
    sides = np.maximum(high - low, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1])
