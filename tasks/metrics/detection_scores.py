"""Scores of pooled detection summands; see ``tasks.metrics.detection`` for what sites send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ReplyError
from tasks.metrics.average_precision import Floats, interpolated_precision, num_detection_bins
from tasks.metrics.catalog import metric_names
from tasks.metrics.detection import IOU_THRESHOLDS
from tasks.metrics.metric_value import MetricValue, collect, ratio
from tasks.scores import Scores
from tasks.stats import Stats

NO_IMAGES = "no images in the pooled holdout"
NO_TRUTH = "no ground-truth box in the pooled holdout"
MISSED_GIOU = -1.0


def finalise_detection(stats: Stats, classes: Sequence[str]) -> Scores:
    """Turn pooled summands into every detection metric; pure.

    ``map`` is the mean over classes with ground truth and over IoU .5:.05:.95 of COCO's 101-point
    average precision; ``map50`` and ``map75`` at one IoU, ``ap_<class>`` and ``ap50_<class>`` of
    one class. ``ar1``, ``ar10``, ``ar100``: mean over the same classes and IoUs of the recall with
    that many detections for each image and class. At the score threshold and IoU .5:
    ``precision``, ``recall``, ``f1`` over the boxes of all classes together, and per class;
    ``mean_iou`` and ``mean_giou`` over **all** ground-truth boxes, matched to detections of their
    class, where a missed box counts 0 and -1.

    Parameters
    ----------
    stats : Stats
        The sum of ``detection_stats`` over sites; ``Stats()`` counts as no images.
    classes : sequence of str, length c

    Returns
    -------
    Scores
        Each name of ``metric_names("detection", classes)`` in ``values`` or ``absent``;
        ``bounds`` for every average precision, proven from the bins; ``arrays["images"]`` and
        ``arrays["boxes"]``: counts for ``result.json`` and the leaderboard.

    Raises
    ------
    ConfigError
        If a class name makes two metrics share a name.
    ReplyError
        If a summand has another shape than ``classes`` implies.
    """
    names = metric_names("detection", classes)
    pooled = _Pooled.unpack(stats, len(classes))
    arrays = _arrays(pooled, classes)
    if not pooled.images[0]:
        return collect(dict.fromkeys(names, NO_IMAGES), arrays=arrays)
    outcomes, bounds = _average_precisions(pooled, classes)
    return collect(outcomes | _recalls(pooled) | _decisions(pooled, classes), bounds, arrays)


@dataclass(frozen=True)
class _Pooled:
    """The pooled summands, by name; shapes as in ``detection_stats``."""

    detections: NDArray[np.int64]
    true_positives: NDArray[np.int64]
    first_hits: NDArray[np.int64]
    ground_truth: NDArray[np.int64]
    decided: NDArray[np.int64]
    overlap_sums: Floats
    images: NDArray[np.int64]

    @classmethod
    def unpack(cls, stats: Stats, num_classes: int) -> _Pooled:
        bins, steps = num_detection_bins(num_classes), len(IOU_THRESHOLDS)
        shapes = {
            "detections": (num_classes, bins),
            "true_positives": (num_classes, steps, bins),
            "first_hits": (num_classes, steps, 2),
            "ground_truth": (num_classes,),
            "decided": (num_classes, 2),
            "overlap_sums": (num_classes, 2),
            "images": (3,),
        }
        arrays: dict[str, Any] = {}
        for name, shape in shapes.items():
            dtype = np.float64 if name == "overlap_sums" else np.int64
            arrays[name] = stats.get(name, np.zeros(shape, dtype))
            if arrays[name].shape != shape:
                raise ReplyError(
                    f"summand '{name}' has shape {arrays[name].shape}, expected {shape} for "
                    f"{num_classes} classes"
                )
        return cls(**arrays)

    @property
    def present(self) -> NDArray[np.int64]:
        """Classes that have ground truth."""
        return np.flatnonzero(self.ground_truth)


def _average_precisions(
    pooled: _Pooled, classes: Sequence[str]
) -> tuple[dict[str, MetricValue], dict[str, float]]:
    curves = np.full((3, len(classes), len(IOU_THRESHOLDS)), np.nan)  # value, lower, upper
    for label in pooled.present:
        hits = pooled.true_positives[label]
        misses = pooled.detections[label] - hits
        if (misses < 0).any():
            raise ReplyError("summand 'true_positives' exceeds 'detections' in a score bin")
        curves[:, label] = interpolated_precision(hits, misses, int(pooled.ground_truth[label]))
    outcomes: dict[str, MetricValue] = {}
    bounds: dict[str, float] = {}
    present = curves[:, pooled.present]
    for name, part in (
        ("map", present),
        ("map50", present[..., :1]),
        ("map75", present[..., 5:6]),
        *((f"ap_{c}", curves[:, i : i + 1]) for i, c in enumerate(classes)),
        *((f"ap50_{c}", curves[:, i : i + 1, :1]) for i, c in enumerate(classes)),
    ):
        if not part.size or np.isnan(part).any():
            outcomes[name] = _no_truth(name, classes)
            continue
        value, lower, upper = part.reshape(3, -1).mean(axis=1).tolist()
        outcomes[name] = value
        bounds[name] = max(value - lower, upper - value, 0.0)
    return outcomes, bounds


def _no_truth(name: str, classes: Sequence[str]) -> str:
    label = name.partition("_")[2]
    return f"no ground-truth box of class '{label}'" if label in classes else NO_TRUTH


def _recalls(pooled: _Pooled) -> dict[str, MetricValue]:
    if not len(pooled.present):
        return dict.fromkeys(("ar1", "ar10", "ar100"), NO_TRUTH)
    found = np.concatenate(
        [pooled.first_hits, pooled.true_positives.sum(axis=2)[..., None]], axis=2
    )
    recalls = found[pooled.present] / pooled.ground_truth[pooled.present, None, None]
    ar1, ar10, ar100 = recalls.mean(axis=(0, 1)).tolist()
    return {"ar1": ar1, "ar10": ar10, "ar100": ar100}


def _decisions(pooled: _Pooled, classes: Sequence[str]) -> dict[str, MetricValue]:
    """Return everything at the score threshold, over all boxes and for each class."""
    outcomes: dict[str, MetricValue] = {}
    total = int(pooled.ground_truth.sum())
    decided, hits = (int(count) for count in pooled.decided.sum(axis=0))
    iou, giou = pooled.overlap_sums.sum(axis=0).tolist()
    unseen = "no ground-truth box and no detection above the score threshold"
    outcomes["precision"] = ratio(hits, decided, "no detection is above the score threshold")
    outcomes["recall"] = ratio(hits, total, NO_TRUTH)
    outcomes["f1"] = ratio(2 * hits, decided + total, unseen)
    outcomes["mean_iou"] = ratio(iou, total, NO_TRUTH)
    outcomes["mean_giou"] = ratio(giou + MISSED_GIOU * (total - hits), total, NO_TRUTH)
    for index, name in enumerate(classes):
        found, right = (int(count) for count in pooled.decided[index])
        truth = int(pooled.ground_truth[index])
        missing = f"no ground-truth box of class '{name}'"
        outcomes[f"precision_{name}"] = ratio(
            right, found, f"no detection of class '{name}' is above the score threshold"
        )
        outcomes[f"recall_{name}"] = ratio(right, truth, missing)
        outcomes[f"f1_{name}"] = ratio(2 * right, found + truth, f"{unseen} of class '{name}'")
        outcomes[f"iou_{name}"] = ratio(float(pooled.overlap_sums[index, 0]), truth, missing)
    return outcomes


def _arrays(pooled: _Pooled, classes: Sequence[str]) -> dict[str, Any]:
    total, unlabelled, undetected = pooled.images.tolist()
    return {
        "images": {
            "total": total,
            "without_boxes": unlabelled,
            "without_detections": undetected,
        },
        "boxes": dict(zip(classes, pooled.ground_truth.tolist(), strict=True)),
    }
