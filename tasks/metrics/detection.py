"""Exact pooled metrics for object detection.

Each site matches its detections to its ground truth as COCO does, image by image and class by
class, and sends counts: true positives by IoU threshold and score bin, detections by score bin,
ground-truth boxes, and sums of overlap. Matching never crosses an image, so the sum over sites is
what one evaluator would count on all images. Recalls, overlaps and everything at the score
threshold are exact; average precision is read from the bins, with a proven bound
(``tasks.metrics.average_precision``).

Equal to pycocotools with ``areaRng='all'`` and ``maxDets=[1, 10, 100]``. There are no area ranges,
and no crowd regions: readers leave crowd annotations out and say so. Images without ground truth
count (their detections are false), and so do images without detections (their boxes are missed).

==================  =====================  ========================================================
summand             shape, dtype           content
==================  =====================  ========================================================
``detections``      (c, bins) int64        detections, best 100 of an image and class, by score bin
``true_positives``  (c, 10, bins) int64    those matched at IoU .5, .55 ... .95
``first_hits``      (c, 10, 2) int64       matched among the best 1 and best 10 of an image
``ground_truth``    (c,) int64             ground-truth boxes
``decided``         (c, 2) int64           detections at the score threshold; matched at IoU .5
``overlap_sums``    (c, 2) float64         IoU and GIoU of the latter, summed
``images``          (3,) int64             images; without ground truth; without detections
==================  =====================  ========================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, DivergedError
from tasks.metrics.average_precision import detection_edges, num_detection_bins
from tasks.metrics.box_matching import greedy_match, matched_overlap, pairwise_iou
from tasks.stats import Stats

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = (1, 10, 100)
SCORE_THRESHOLD = 0.25


class Labelled(Protocol):
    """Boxes with classes: ``boxes`` (n, 4) x1 y1 x2 y2 in pixels, ``labels`` (n,) int64."""

    @property
    def boxes(self) -> NDArray[Any]:
        """Corners in pixels, shape (n, 4)."""

    @property
    def labels(self) -> NDArray[Any]:
        """Class indices, shape (n,)."""


@dataclass(frozen=True)
class Detections:
    """What a model finds in one image, in any order.

    Parameters
    ----------
    boxes : array, shape (n, 4), float32, pixels of the original image
        Corners x1, y1, x2, y2. A box with swapped corners overlaps nothing.
    scores : array, shape (n,), float, in [0, 1]
    labels : array, shape (n,), int64, in [0, c)
    """

    boxes: NDArray[Any]
    scores: NDArray[Any]
    labels: NDArray[Any]


def detection_stats(
    ground_truths: Iterable[Labelled],
    predictions: Iterable[Detections],
    num_classes: int,
    score_threshold: float = SCORE_THRESHOLD,
) -> Stats:
    """Return the metric summands of some images; both iterables are read once, in step.

    Parameters
    ----------
    ground_truths : iterable of Labelled, one for each image
    predictions : iterable of Detections, one for each image
        Of an image's detections of one class the best 100 count; of equal scores the earlier.
    num_classes : int, >= 1
    score_threshold : float, in [0, 1]
        Least score of a detection that counts for precision, recall, F1 and mean overlap.

    Returns
    -------
    Stats
        The table in the module's docstring.

    Raises
    ------
    DataError
        If there is not one prediction for each image, or a ground-truth label is out of range.
    DivergedError
        If a score or a box is NaN or infinite.
    ConfigError
        If predictions have wrong shapes, labels out of range, or scores outside [0, 1].

    Notes
    -----
    Privacy: counts and sums only. For a single image they are that image's, so a site's minimum
    group size must be enforced by its policy.
    """
    totals = _Totals(num_classes, score_threshold)
    try:
        for truth, found in zip(ground_truths, predictions, strict=True):
            totals.add(truth, found)
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise DataError("there must be one prediction for each image") from None
    return totals.stats()


class _Totals:
    """Running sums over images."""

    def __init__(self, num_classes: int, score_threshold: float) -> None:
        if num_classes < 1 or not 0 <= score_threshold <= 1:
            raise ConfigError(
                f"detection metrics need at least one class and a score threshold in [0, 1], got "
                f"{num_classes} and {score_threshold}"
            )
        bins, steps = num_detection_bins(num_classes), len(IOU_THRESHOLDS)
        self._num_classes = num_classes
        self._score_threshold = score_threshold
        self._edges = detection_edges(num_classes)
        self._detections = np.zeros((num_classes, bins), np.int64)
        self._true_positives = np.zeros((num_classes, steps, bins), np.int64)
        self._first_hits = np.zeros((num_classes, steps, 2), np.int64)
        self._ground_truth = np.zeros(num_classes, np.int64)
        self._decided = np.zeros((num_classes, 2), np.int64)
        self._overlap_sums = np.zeros((num_classes, 2))
        self._images = np.zeros(3, np.int64)

    def stats(self) -> Stats:
        """Return the summands."""
        return Stats(
            {
                "detections": self._detections,
                "true_positives": self._true_positives,
                "first_hits": self._first_hits,
                "ground_truth": self._ground_truth,
                "decided": self._decided,
                "overlap_sums": self._overlap_sums,
                "images": self._images,
            }
        )

    def add(self, truth: Labelled, found: Detections) -> None:
        """Count one image."""
        labels = np.asarray(truth.labels, np.int64)
        boxes = np.asarray(truth.boxes, np.float64).reshape(-1, 4)
        if labels.shape != (len(boxes),) or (len(labels) and not self._in_range(labels)):
            raise DataError(
                f"ground-truth labels must be {len(boxes)} class indices in "
                f"[0, {self._num_classes}); check the use case's list of classes"
            )
        detected, scores, classes = self._checked(found)
        self._images += (1, not len(boxes), not len(detected))
        self._ground_truth += np.bincount(labels, minlength=self._num_classes)
        for label in np.unique(classes).tolist():
            mine = np.flatnonzero(classes == label)
            best = mine[np.argsort(-scores[mine], kind="stable")[: MAX_DETECTIONS[-1]]]
            self._match(label, detected[best], scores[best], boxes[labels == label])

    def _match(
        self,
        label: int,
        detected: NDArray[np.float64],
        scores: NDArray[np.float64],
        truth: NDArray[np.float64],
    ) -> None:
        """Count the detections of one image and class, sorted by falling score."""
        cells = self._edges.searchsorted(scores, "right")
        np.add.at(self._detections[label], cells, 1)
        decided = int(np.count_nonzero(scores >= self._score_threshold))
        self._decided[label, 0] += decided
        if not len(truth):
            return
        matched = greedy_match(pairwise_iou(detected, truth), IOU_THRESHOLDS)
        steps, ranks = np.nonzero(matched >= 0)
        np.add.at(self._true_positives[label], (steps, cells[ranks]), 1)
        for column, limit in enumerate(MAX_DETECTIONS[:2]):
            self._first_hits[label, :, column] += (matched[:, :limit] >= 0).sum(axis=1)
        partner = matched[0, :decided]
        hits = np.flatnonzero(partner >= 0)
        self._decided[label, 1] += len(hits)
        overlaps = matched_overlap(detected[hits], truth[partner[hits]])
        self._overlap_sums[label] += [overlap.sum() for overlap in overlaps]

    def _checked(
        self, found: Detections
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        boxes = np.asarray(found.boxes, np.float64)
        scores = np.asarray(found.scores, np.float64)
        labels = np.asarray(found.labels)
        count = len(scores)
        if not count and not boxes.size and not labels.size:
            return np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
        if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
            raise ConfigError(
                f"detections need boxes (n, 4), scores (n,) and labels (n,), got {boxes.shape}, "
                f"{scores.shape} and {labels.shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise DivergedError(
                "the model's boxes or scores are not finite; lower the learning rate"
            )
        if labels.dtype.kind not in "iu" or not self._in_range(labels):
            raise ConfigError(f"a detection's label is no class index in [0, {self._num_classes})")
        if scores.min() < 0 or scores.max() > 1:
            raise ConfigError("the model's scores are outside [0, 1]; apply sigmoid or softmax")
        return boxes, scores, labels.astype(np.int64, copy=False)

    def _in_range(self, labels: NDArray[Any]) -> bool:
        return bool(labels.min() >= 0 and labels.max() < self._num_classes)
