"""Exact pooled metrics for classification.

A site's rows become five arrays that add up: a confusion matrix, counts of the true class's rank,
score histograms, and the sums of log loss and squared error. The server finalises the sum once, so
macro-F1, MCC or AUC are those of the pooled rows, not a mean of the sites'.

The confusion matrix equals the state of torchmetrics' ``MulticlassConfusionMatrix`` and the
histograms' cumulative sums that of its binned ``PrecisionRecallCurve`` (a test compares them).
Finalising uses closed formulas in float64 instead of torchmetrics' ``compute``, which works in
float32 and gives 0 for an undefined metric; here that metric is absent, with its reason. Torch is
not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, DivergedError, ReplyError
from tasks.metrics.catalog import metric_names
from tasks.metrics.confusion import confusion_outcomes
from tasks.metrics.histograms import average_precision, num_score_bins, roc_auc, score_histogram
from tasks.metrics.metric_value import NO_ROWS, MetricValue, apply, collect
from tasks.scores import Scores
from tasks.stats import Stats

PROBABILITY_TOLERANCE = 1e-3
"""How far a row's probabilities may be from adding up to 1 (softmax in half precision)."""
CELLS_PER_CHUNK = 2**20
_EPSILON = float(np.finfo(np.float64).eps)


def classification_stats(targets: NDArray[Any], probabilities: NDArray[Any]) -> Stats:
    """Return the metric summands of some rows.

    Parameters
    ----------
    targets : array, shape (n,), int64, in [0, c)
        True class of each row; n may be 0.
    probabilities : array, shape (n, c), float, in [0, 1], rows adding up to 1
        c >= 2. The predicted class is the first of the largest.

    Returns
    -------
    Stats
        ``confusion`` (c, c) int64, truth by prediction; ``true_rank`` (c,) int64, rows whose true
        class has the k-th largest probability; ``score_histogram`` int64, (2, bins) for two classes
        (scores of class 1) or (c, 2, bins), negatives then positives; ``loss_sums`` (2,) float64,
        log loss in nats and squared error over all classes.

    Raises
    ------
    DataError
        If the shapes differ or a target is not an integer in [0, c).
    DivergedError
        If a probability is NaN or infinite.
    ConfigError
        If there are fewer than two columns, or rows are not probabilities.

    Notes
    -----
    Privacy: counts and sums only. For a single row they are that row's, so a site's minimum group
    size must be enforced by its policy.
    """
    truth = np.asarray(targets)
    scores = np.asarray(probabilities, dtype=np.float64)
    _check_shapes(truth, scores)
    num_rows, num_classes = scores.shape
    truth = truth.astype(np.int64, copy=False)
    rows = max(1, CELLS_PER_CHUNK // num_classes)
    if num_rows <= rows:
        return _chunk_stats(truth, scores)
    return Stats.total(
        _chunk_stats(truth[i : i + rows], scores[i : i + rows]) for i in range(0, num_rows, rows)
    )


def _check_shapes(truth: NDArray[Any], scores: NDArray[np.float64]) -> None:
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ConfigError(
            f"classification metrics need probabilities of shape (rows, classes >= 2), got "
            f"{scores.shape}; for two classes give both columns"
        )
    if truth.shape != (scores.shape[0],):
        raise DataError(f"targets have shape {truth.shape}, expected ({scores.shape[0]},)")
    if truth.dtype.kind not in "iu" and len(truth):
        raise DataError(f"targets must be class indices (int64), got {truth.dtype}")


def _checked(truth: NDArray[np.int64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Check values; return the scores, clipped to [0, 1] where rounding overshot."""
    sums = scores.sum(axis=1)
    lowest, highest = float(scores.min()), float(scores.max())
    if not np.isfinite(sums).all():
        raise DivergedError("the model's probabilities are not finite; lower the learning rate")
    if lowest < -PROBABILITY_TOLERANCE or float(np.abs(sums - 1.0).max()) > PROBABILITY_TOLERANCE:
        raise ConfigError(
            f"the model's outputs are not probabilities: rows must be >= 0 and add up to 1 within "
            f"{PROBABILITY_TOLERANCE}; apply softmax"
        )
    num_classes = scores.shape[1]
    if truth.min() < 0 or truth.max() >= num_classes:
        raise DataError(
            f"a target is outside [0, {num_classes}); check the use case's list of classes"
        )
    return np.clip(scores, 0.0, 1.0) if lowest < 0.0 or highest > 1.0 else scores


def _chunk_stats(truth: NDArray[np.int64], scores: NDArray[np.float64]) -> Stats:
    num_rows, num_classes = scores.shape
    if num_rows:
        scores = _checked(truth, scores)
    index = np.arange(num_rows)
    own = scores[index, truth]  # (n,)
    predicted = scores.argmax(axis=1)
    confusion = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    residual = scores.copy()
    residual[index, truth] -= 1.0
    log_loss = -np.log(own.clip(_EPSILON, 1.0 - _EPSILON)).sum()
    return Stats(
        {
            "confusion": confusion.reshape(num_classes, num_classes),
            "true_rank": np.bincount(_ranks(truth, scores, own), minlength=num_classes),
            "score_histogram": score_histogram(truth, scores),
            "loss_sums": np.array([log_loss, np.vdot(residual, residual)]),
        }
    )


def _ranks(
    truth: NDArray[np.int64], scores: NDArray[np.float64], own: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return how many classes come before the true one; of equals the later, as in sklearn."""
    column = own[:, None]
    later = np.arange(scores.shape[1]) > truth[:, None]
    before = (scores > column) | ((scores == column) & later)
    ranks: NDArray[np.int64] = before.sum(axis=1)
    return ranks


def finalise_classification(stats: Stats, classes: Sequence[str]) -> Scores:
    """Turn pooled summands into every classification metric; pure.

    Parameters
    ----------
    stats : Stats
        The sum of `classification_stats` over sites; ``Stats()`` counts as no rows.
    classes : sequence of str, length c
        Class names in the order of the indices. With two, the second is the positive class of
        ``auc_roc``, ``auc_pr`` and ``brier``.

    Returns
    -------
    Scores
        Each name of ``metric_names("classification", classes)`` in ``values`` or ``absent``;
        ``bounds`` for ``auc_roc``, ``gini`` and ``auc_pr``; ``arrays["confusion_matrix"]``.

    Raises
    ------
    ConfigError
        If a class name makes two metrics share a name.
    ReplyError
        If a summand has another shape than ``classes`` implies.
    """
    names = metric_names("classification", classes)
    confusion, ranks, histogram, sums = _unpack(stats, len(classes))
    arrays = {"confusion_matrix": confusion.tolist()}
    num_rows = int(confusion.sum())
    if num_rows == 0:
        return collect(dict.fromkeys(names, NO_ROWS), arrays=arrays)
    outcomes = confusion_outcomes(confusion, classes)
    outcomes["log_loss"] = float(sums[0]) / num_rows
    outcomes["brier"] = float(sums[1]) / num_rows / (2.0 if len(classes) == 2 else 1.0)
    for k in (3, 5):
        outcomes[f"top{k}_accuracy"] = (
            float(ranks[:k].sum()) / num_rows
            if len(classes) > k
            else f"always 1 with {len(classes)} classes"
        )
    curves, bounds = _curves(confusion.sum(axis=1), histogram, classes)
    return collect(outcomes | curves, bounds, arrays)


def _unpack(stats: Stats, num_classes: int) -> list[NDArray[Any]]:
    bins = num_score_bins(num_classes)
    shapes = {
        "confusion": (num_classes, num_classes),
        "true_rank": (num_classes,),
        "score_histogram": (2, bins) if num_classes == 2 else (num_classes, 2, bins),
        "loss_sums": (2,),
    }
    arrays = []
    for name, shape in shapes.items():
        dtype = np.float64 if name == "loss_sums" else np.int64
        array = stats.get(name, np.zeros(shape, dtype))
        if array.shape != shape:
            raise ReplyError(
                f"summand '{name}' has shape {array.shape}, expected {shape} for "
                f"{num_classes} classes"
            )
        arrays.append(array)
    return arrays


def _curves(
    support: NDArray[np.int64], histogram: NDArray[np.int64], classes: Sequence[str]
) -> tuple[dict[str, MetricValue], dict[str, float]]:
    """Return ``auc_roc``, ``gini`` and ``auc_pr`` with their bounds, one-vs-rest macro."""
    num_classes = len(classes)
    per_class = histogram.reshape(-1, 2, histogram.shape[-1])  # (1 or c, 2, bins)
    missing = [name for name, rows in zip(classes, support, strict=True) if rows == 0]
    reason = f"no pooled row is of class {', '.join(map(repr, missing))}"
    area: MetricValue = reason
    precision: MetricValue = reason
    bounds: dict[str, float] = {}
    if not missing:
        areas, area_bounds = np.mean([roc_auc(h) for h in per_class], axis=0).tolist()
        area = areas
        bounds |= {"auc_roc": area_bounds, "gini": 2.0 * area_bounds}
    # A binary average precision needs positives only, as in sklearn.
    if not missing or (num_classes == 2 and support[1] > 0):
        precision, bounds["auc_pr"] = np.mean(
            [average_precision(h) for h in per_class], axis=0
        ).tolist()
    gini = apply(area, lambda value: 2.0 * value - 1.0)
    return {"auc_roc": area, "gini": gini, "auc_pr": precision}, bounds
