"""Every metric that is a function of the pooled confusion matrix.

Averages over classes follow scikit-learn's defaults: the mean runs over the classes that occur in
truth or predictions, and an undefined ratio counts as 0 *in the mean*. On its own it is absent.
Counts stay below 2**53, so float64 holds them exactly; products of counts use Python integers.

References
----------
R. Delgado, X.-A. Tibau (2019). Why Cohen's Kappa should be avoided as performance measure in
classification. PLoS ONE 14 (definitions of multi-class MCC and kappa, eqs. 2 and 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.metric_value import MetricValue, ratio

Floats = NDArray[np.float64]

_ONE_CLASS = "every pooled row is of one class"
_REASONS = {
    "precision": "nothing was predicted as '{}'",
    "recall": "no pooled row is of class '{}'",
    "specificity": "every pooled row is of class '{}'",
    "npv": "every pooled row was predicted as '{}'",
}
_UNSEEN = "class '{}' occurs in neither truth nor predictions"


class _Ratios:
    """One-vs-rest numerators and denominators of every per-class metric, each of shape (c,)."""

    def __init__(self, confusion: NDArray[np.int64]) -> None:
        counts = confusion.astype(np.float64)
        hits = np.diagonal(counts)
        self.support = counts.sum(axis=1)
        self.predicted = counts.sum(axis=0)
        self.present = (self.support + self.predicted) > 0
        total = counts.sum()
        rejected = total - self.support - self.predicted + hits
        self.parts: dict[str, tuple[Floats, Floats]] = {
            "precision": (hits, self.predicted),
            "recall": (hits, self.support),
            "specificity": (rejected, total - self.support),
            "npv": (rejected, total - self.predicted),
            "jaccard": (hits, self.support + self.predicted - hits),
        }
        for name, beta2 in (("f1", 1.0), ("fbeta05", 0.25), ("fbeta2", 4.0)):
            self.parts[name] = ((1 + beta2) * hits, beta2 * self.support + self.predicted)

    def filled(self, name: str) -> Floats:
        """Return the ratio per class, 0 where undefined."""
        numerator, denominator = self.parts[name]
        return np.divide(
            numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0
        )

    def macro(self, name: str) -> float:
        """Return the mean over the classes that occur."""
        return float(self.filled(name)[self.present].mean())

    def weighted(self, name: str) -> float:
        """Return the mean weighted by true rows per class."""
        return float(np.dot(self.filled(name), self.support) / self.support.sum())

    def any_defined(self, name: str) -> bool:
        """Tell whether at least one class that occurs has the metric."""
        return bool((self.parts[name][1][self.present] > 0).any())


def confusion_outcomes(
    confusion: NDArray[np.int64], classes: Sequence[str]
) -> dict[str, MetricValue]:
    """Return every metric of the confusion matrix.

    Parameters
    ----------
    confusion : array, shape (c, c), int64
        Rows: truth; columns: predictions; at least one row in all.
    classes : sequence of str, length c

    Returns
    -------
    dict of str to float or reason
    """
    ratios = _Ratios(confusion)
    return _overall(confusion, ratios) | _averages(ratios) | _per_class(ratios, classes)


def _per_class(ratios: _Ratios, classes: Sequence[str]) -> dict[str, MetricValue]:
    outcomes: dict[str, MetricValue] = {}
    for stem, (numerators, denominators) in ratios.parts.items():
        reason = _REASONS.get(stem, _UNSEEN)
        for name, top, bottom in zip(classes, numerators, denominators, strict=True):
            outcomes[f"{stem}_{name}"] = ratio(top, bottom, reason.format(name))
    return outcomes


def _averages(ratios: _Ratios) -> dict[str, MetricValue]:
    one_class = np.count_nonzero(ratios.support) == 1
    outcomes: dict[str, MetricValue] = {
        f"{stem}_macro": ratios.macro(stem)
        for stem in ("precision", "recall", "f1", "fbeta05", "fbeta2", "jaccard")
    }
    outcomes |= {f"{s}_weighted": ratios.weighted(s) for s in ("precision", "recall", "f1")}
    outcomes["specificity_macro"] = _ONE_CLASS if one_class else ratios.macro("specificity")
    outcomes["npv_macro"] = (
        ratios.macro("npv")
        if ratios.any_defined("npv")
        else "every pooled row is of one class and was predicted as it"
    )
    recalls = ratios.filled("recall")[ratios.support > 0]
    outcomes["balanced_accuracy"] = float(recalls.mean())
    return outcomes


def _overall(confusion: NDArray[np.int64], ratios: _Ratios) -> dict[str, MetricValue]:
    correct, total = int(np.trace(confusion)), int(confusion.sum())
    accuracy = correct / total
    distance = np.subtract.outer(np.arange(len(confusion)), np.arange(len(confusion)))
    return {
        "accuracy": accuracy,
        "hamming": (total - correct) / total,
        "precision_micro": accuracy,
        "recall_micro": accuracy,
        "f1_micro": accuracy,
        "mcc": _matthews(confusion),
        "cohen_kappa": _kappa(confusion, ratios, distance != 0),
        "qwk": _kappa(confusion, ratios, distance**2),
    }


def _matthews(confusion: NDArray[np.int64]) -> MetricValue:
    truth = [int(v) for v in confusion.sum(axis=1)]
    predicted = [int(v) for v in confusion.sum(axis=0)]
    total, correct = sum(truth), int(np.trace(confusion))
    covariance = correct * total - sum(t * p for t, p in zip(truth, predicted, strict=True))
    spread_truth = total**2 - sum(t * t for t in truth)
    spread_predicted = total**2 - sum(p * p for p in predicted)
    if spread_truth == 0:
        return _ONE_CLASS
    if spread_predicted == 0:
        return "every pooled row was predicted as one class"
    return covariance / math.sqrt(spread_truth * spread_predicted)


def _kappa(
    confusion: NDArray[np.int64], ratios: _Ratios, weights: NDArray[np.generic]
) -> MetricValue:
    observed = float(np.sum(weights * confusion.astype(np.float64)))
    expected = float(np.sum(weights * np.outer(ratios.support, ratios.predicted)))
    if expected == 0.0:
        return "truth and predictions hold one and the same class"
    return 1.0 - observed * float(ratios.support.sum()) / expected
