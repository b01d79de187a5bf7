"""Exact pooled metrics for semantic segmentation.

A site's pictures become a confusion matrix of pixels and, for each class, four counts of boundary
pixels. The server finalises the sum once, so that IoU and Dice are those of all pixels of all
sites, not means of pictures or sites. A metric that the pooled pixels do not define is absent.

References
----------
G. Csurka, D. Larlus, F. Perronnin (2013). What is a good evaluation measure for semantic
segmentation? BMVC (boundary F1 with a tolerance; here its counts are pooled over pictures).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import DataError, ReplyError
from tasks.metrics.catalog import metric_names
from tasks.metrics.metric_value import MetricValue, collect, ratio
from tasks.scores import Scores
from tasks.stats import Stats

NO_PIXELS = "no labelled pixels in the pooled holdout"
_UNSEEN = "class '{}' occurs in neither truth nor predictions"
_NO_EDGE = "class '{}' has no boundary in truth or predictions"
IGNORED = 255

Mask = NDArray[np.bool_]


def segmentation_stats(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int, tolerance: int
) -> Stats:
    """Return the metric summands of one picture.

    Parameters
    ----------
    truth : array, shape (h, w), uint8
        Class of each pixel; 255: not labelled, and in no count.
    predicted : array, shape (h, w), uint8, in [0, c)
    num_classes : int
    tolerance : int, pixels
        How far apart two boundaries may be to agree.

    Returns
    -------
    Stats
        ``confusion`` (c, c) int64, pixels by truth and prediction; ``boundary`` (c, 4) int64:
        predicted boundary pixels, those near a true one, true boundary pixels, those near a
        predicted one.

    Raises
    ------
    DataError
        If the shapes differ or a value is no class.
    """
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise DataError(f"a mask is {truth.shape}, its prediction {predicted.shape}")
    known = truth != IGNORED
    pairs = truth[known].astype(np.int64) * num_classes + predicted[known]
    if pairs.size and (truth[known].max() >= num_classes or predicted[known].max() >= num_classes):
        raise DataError(f"a pixel's class is outside [0, {num_classes})")
    confusion = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    boundary = [
        _boundary_counts((predicted == c) & known, (truth == c), known, tolerance)
        for c in range(num_classes)
    ]
    return Stats({"confusion": confusion, "boundary": np.array(boundary, dtype=np.int64)})


def blank_segmentation(num_classes: int) -> Stats:
    """Return the summands of no picture."""
    none = np.zeros((1, 1), dtype=np.uint8)
    return segmentation_stats(none + np.uint8(IGNORED), none, num_classes, 0)


def finalise_segmentation(stats: Stats, classes: Sequence[str]) -> Scores:
    """Turn pooled ``segmentation_stats`` into every metric of ``metric_names("segmentation")``.

    Averages run over the classes that occur in truth or predictions.

    Raises
    ------
    ReplyError
        If a summand has another shape than the classes need.
    """
    size = len(classes)
    if not stats or not np.any(stats.get("confusion", np.zeros(1))):
        return collect(dict.fromkeys(metric_names("segmentation", classes), NO_PIXELS))
    for name, shape in (("confusion", (size, size)), ("boundary", (size, 4))):
        if name not in stats or stats[name].shape != shape:
            raise ReplyError(f"summand '{name}' is missing or not of the shape {shape}")
    confusion = stats["confusion"]
    hits = np.diagonal(confusion)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    outcomes: dict[str, MetricValue] = {"pixel_accuracy": float(hits.sum() / confusion.sum())}
    pieces: dict[str, list[MetricValue]] = {"iou": [], "dice": [], "boundary_f1": []}
    for index, label in enumerate(classes):
        hit, total = int(hits[index]), int(both[index])
        pieces["iou"].append(ratio(hit, total - hit, _UNSEEN.format(label)))
        pieces["dice"].append(ratio(2 * hit, total, _UNSEEN.format(label)))
        pieces["boundary_f1"].append(_boundary_f1(stats["boundary"][index], label))
    for stem, values in pieces.items():
        outcomes |= {f"{stem}_{c}": value for c, value in zip(classes, values, strict=True)}
    outcomes["miou"] = _mean(pieces["iou"])
    outcomes["dice_macro"] = _mean(pieces["dice"])
    outcomes["boundary_f1_macro"] = _mean(pieces["boundary_f1"])
    return collect(outcomes, arrays={"confusion_matrix": confusion.tolist()})


def _mean(values: Sequence[MetricValue]) -> MetricValue:
    numbers = [value for value in values if isinstance(value, float)]
    return float(np.mean(numbers)) if numbers else "no class has a boundary in the pooled pixels"


def _boundary_f1(counts: NDArray[Any], label: str) -> MetricValue:
    """Return the harmonic mean of the shares of near boundary pixels."""
    predicted, right, true, found = (int(count) for count in counts)
    if not predicted and not true:
        return _NO_EDGE.format(label)
    if not predicted or not true or not right or not found:
        return 0.0
    precision, recall = right / predicted, found / true
    return 2 * precision * recall / (precision + recall)


def _boundary_counts(predicted: Mask, true: Mask, known: Mask, tolerance: int) -> list[int]:
    if not predicted.any() and not true.any():
        return [0, 0, 0, 0]
    ours, theirs = _edge(predicted, known), _edge(true, known)
    right = ours & _grown(theirs, tolerance)
    found = theirs & _grown(ours, tolerance)
    return [int(np.count_nonzero(mask)) for mask in (ours, right, theirs, found)]


def _edge(mask: Mask, known: Mask) -> Mask:
    """Return the pixels of ``mask`` with a known neighbour, of four, outside it."""
    outside = known & ~mask
    edge = np.zeros_like(mask)
    edge[1:] |= outside[:-1]
    edge[:-1] |= outside[1:]
    edge[:, 1:] |= outside[:, :-1]
    edge[:, :-1] |= outside[:, 1:]
    return edge & mask


def _grown(mask: Mask, radius: int) -> Mask:
    """Return the pixels within ``radius`` (Euclidean) of ``mask``."""
    if radius == 0:
        return mask
    height, width = mask.shape
    padded = np.pad(mask, ((radius, radius), (radius + 1, radius)))
    before = np.cumsum(padded, axis=1, dtype=np.int64)  # (h + 2r, w + 2r + 1)
    grown = np.zeros_like(mask)
    for step in range(-radius, radius + 1):
        reach = int(np.sqrt(radius**2 - step**2))
        first = radius - reach
        rows = before[radius + step : radius + step + height]
        grown |= rows[:, first + 2 * reach + 1 :][:, :width] > rows[:, first:][:, :width]
    return grown
