"""Histograms with fixed edges, and what can be proven from them.

AUC, average precision and quantiles need the rows in order, so no finite sum holds them. Sites send
counts over edges that depend on nothing but the number of classes (scores) or the target's global
standard deviation (errors). The server computes the metric from the pooled counts, with an interval
that is proven to contain the exact value.

Symbols: ``p_b``, ``n_b`` positives and negatives in bin b; ``P``, ``N`` their totals; ``T``, ``F``
positives and negatives in the bins above b.

References
----------
T. Fawcett (2006). An introduction to ROC analysis. Pattern Recognition Letters 27, algorithm 3
(ties count half).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LOGIT_RANGE = 40.0
"""Largest distance from the uniform guess, in nats; doubles just below 1 have logit 36.7."""
LOGIT_KNEE = 0.25
"""Bins are uniform in logit within the knee and widen in proportion to the distance beyond it."""
ERROR_DECADES = (-6, 6)
ERROR_BINS_PER_DECADE = 64


def num_score_bins(num_classes: int) -> int:
    """Return the number of score bins per class: 1024 for two classes, then 512 down to 64.

    A reply holds ``classes * 2 * bins`` counts; the limit keeps it near 40 kB up to 20 classes.
    """
    if num_classes == 2:
        return 1024
    return int(min(512, max(64, 2 ** int(np.log2(2560 / num_classes)))))


@lru_cache(maxsize=64)
def score_edges(num_classes: int) -> Floats:
    """Return the lower edges of every score bin but the first.

    The edges are uniform in ``asinh((logit p - logit 1/c) / knee)``: fine around the uniform guess,
    where untrained models score, and logarithmic towards 0 and 1, where saturated ones do. The
    first bin holds exactly p = 0 and the last exactly p = 1, so both are exact ties.

    Parameters
    ----------
    num_classes : int, >= 2

    Returns
    -------
    array, shape (bins - 1,), float64, in (0, 1], ascending
        Bin of p: the number of edges <= p.
    """
    num_inner = num_score_bins(num_classes) - 3
    reach = np.arcsinh(LOGIT_RANGE / LOGIT_KNEE)
    logits = LOGIT_KNEE * np.sinh(np.linspace(-reach, reach, num_inner)) - np.log(num_classes - 1)
    inner = 1.0 / (1.0 + np.exp(-logits))
    edges = np.concatenate([[np.nextafter(0.0, 1.0)], inner, [1.0]])
    edges.setflags(write=False)
    return edges


def score_histogram(truth: Counts, probabilities: Floats) -> Counts:
    """Count rows by class, by "is this class" and by score bin.

    Parameters
    ----------
    truth : array, shape (n,), int64, in [0, c)
    probabilities : array, shape (n, c), float64, in [0, 1]

    Returns
    -------
    array, int64, shape (2, bins) for c = 2 (scores of class 1), else (c, 2, bins)
        Axis -2: 0 negatives, 1 positives.
    """
    num_rows, num_classes = probabilities.shape
    bins = num_score_bins(num_classes)
    edges = score_edges(num_classes)
    if num_classes == 2:
        cells = edges.searchsorted(probabilities[:, 1], "right") + truth * bins
        return np.bincount(cells, minlength=2 * bins).reshape(2, bins)
    cells = edges.searchsorted(probabilities, "right")  # (n, c)
    cells += np.arange(num_classes) * (2 * bins)
    cells[np.arange(num_rows), truth] += bins
    counts = np.bincount(cells.ravel(), minlength=num_classes * 2 * bins)
    return counts.reshape(num_classes, 2, bins)


def roc_auc(histogram: Counts) -> tuple[float, float]:
    """Return the area under the ROC curve with ties in a bin counted half, and its error bound.

    Every pair of one bin counts 1/2 where the exact AUC counts 0, 1/2 or 1, so the error is at most
    ``sum_b p_b n_b / (2 P N)``; the bins of exactly 0 and exactly 1 hold true ties and add nothing.

    Parameters
    ----------
    histogram : array, shape (2, bins), int64
        Negatives and positives; both must have at least one row.
    """
    negatives, positives = histogram.astype(np.float64)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    area = float(np.dot(positives, below + 0.5 * negatives) / pairs)
    bound = float(np.dot(positives[1:-1], negatives[1:-1]) / (2.0 * pairs))
    return area, bound


def average_precision(histogram: Counts) -> tuple[float, float]:
    r"""Return the average precision with rows evenly mixed in each bin, and its error bound.

    The exact value is the mean over positives of the precision at the end of their group of ties.
    The k-th positive of bin b is given its expected precision in a random order, with
    ``k n / (p + 1)`` of the bin's negatives above it. Whatever the order, its precision is at most
    ``(T + p) / (T + p + F)`` (all positives tied above the negatives) and at least
    ``(T + k) / (T + k + F + n)`` (negatives first, positives one by one). Summed over k, with
    ``G = F + n`` and ``m = T + G``, the least is

    .. math:: \sum_{k=1}^{p} \frac{T+k}{m+k} = p - G \sum_{k=1}^{p} \frac{1}{m+k}
              \ge p - G \ln\Bigl(1 + \frac{p}{m + 1/2}\Bigr)

    because 1/x is convex, hence below its mean over [x - 1/2, x + 1/2]. The bins of exactly 0 and
    exactly 1 hold true ties.

    Parameters
    ----------
    histogram : array, shape (2, bins), int64
        Negatives and positives; at least one positive.
    """
    negatives, positives = histogram[:, ::-1].astype(np.float64)
    true_above = np.cumsum(positives) - positives
    false_above = np.cumsum(negatives) - negatives
    reached = true_above + positives
    tied = positives * reached / np.maximum(reached + false_above + negatives, 1.0)
    highest = positives * reached / np.maximum(reached + false_above, 1.0)
    lowest = _precisions(positives, true_above, false_above + negatives, 1.0)
    even = _precisions(positives, true_above, false_above, 1.0 + negatives / (positives + 1.0))
    even = np.clip(even, lowest, highest)
    for contribution in (highest, lowest, even):
        contribution[[0, -1]] = tied[[0, -1]]
    num_positives = float(positives.sum())
    spread = max(float(np.sum(highest - even)), float(np.sum(even - lowest)))
    return float(np.sum(even)) / num_positives, spread / num_positives


def _precisions(
    positives: Floats, true_above: Floats, false_above: Floats, pace: Floats | float
) -> Floats:
    """Sum ``(T + k) / (T + F + pace * k)`` over k = 1..p in every bin.

    Exact for p = 1; otherwise the harmonic sum is rounded up, so that the result is a lower limit
    where ``T <= (T + F) / pace``, as it always is for ``pace`` 1.
    """
    offset = (true_above + false_above) / pace
    harmonic = np.log1p(positives / (offset + 0.5))  # >= sum of 1 / (offset + k)
    harmonic = np.where(positives == 1.0, 1.0 / (offset + 1.0), harmonic)
    return (positives + (true_above - offset) * harmonic) / pace


@lru_cache(maxsize=1)
def _unit_error_edges() -> Floats:
    first, last = ERROR_DECADES
    inner = np.logspace(first, last, (last - first) * ERROR_BINS_PER_DECADE + 1)
    edges = np.concatenate([[np.nextafter(0.0, 1.0)], inner])
    edges.setflags(write=False)
    return edges


def error_edges(scale: float) -> Floats:
    """Return the lower edges of every error bin but the first, in target units.

    Bin 0 holds errors of exactly 0; then one bin below ``1e-6 * scale``, 64 bins a decade up to
    ``1e6 * scale``, and one bin above.

    Parameters
    ----------
    scale : float, > 0
        Global standard deviation of the target, in target units.

    Returns
    -------
    array, shape (770,), float64, ascending
        Bin of ``|error|``: the number of edges <= it.
    """
    edges = _unit_error_edges() * scale
    edges[0] = np.nextafter(0.0, 1.0)
    return edges


def num_error_bins() -> int:
    """Return the number of error bins (771)."""
    return len(_unit_error_edges()) + 1


def error_histogram(absolute_errors: Floats, scale: float) -> Counts:
    """Count absolute errors, shape (n,), in the bins of `error_edges`; returns shape (771,)."""
    cells = error_edges(scale).searchsorted(absolute_errors, "right")
    return np.bincount(cells, minlength=num_error_bins())


def _limits(bins: NDArray[Any], edges: Floats, ceiling: float) -> tuple[Floats, Floats]:
    lower = np.concatenate([[0.0], edges])
    upper = np.concatenate([[0.0], edges[1:], [max(ceiling, float(edges[-1]))]])
    return lower[bins], upper[bins]


def median_error(histogram: Counts, scale: float, ceiling: float) -> tuple[float, float]:
    """Return the interpolated median absolute error and its error bound, in target units.

    The one or two middle rows lie in known bins; each is placed in its bin by its rank there, and
    the bound is the distance to the further end.

    Parameters
    ----------
    histogram : array, shape (771,), int64, at least one row
    scale : float, > 0
    ceiling : float
        Upper limit of any error, closing the last bin: the root of the sum of squared errors.
    """
    num_rows = int(histogram.sum())
    ranks = np.array([(num_rows - 1) // 2, num_rows // 2])  # the same row twice if n is odd
    cumulative = np.cumsum(histogram)
    bins = cumulative.searchsorted(ranks, "right")
    lower, upper = _limits(bins, error_edges(scale), ceiling)
    counts = histogram[bins]
    share = (ranks - (cumulative[bins] - counts) + 0.5) / counts
    median = float(np.mean(lower + (upper - lower) * share))
    return median, max(median - float(lower.mean()), float(upper.mean()) - median)


def largest_error(histogram: Counts, scale: float, ceiling: float) -> tuple[float, float]:
    """Return the upper edge of the highest bin with rows, and that bin's width, in target units.

    The exact maximum is never above the value and at most a factor ``10 ** (1 / 64)`` (3.7 %) below
    it, within ``[1e-6, 1e6] * scale``. Parameters as in `median_error`.
    """
    highest = np.flatnonzero(histogram)[-1:]
    lower, upper = _limits(highest, error_edges(scale), ceiling)
    return float(upper[0]), float(upper[0] - lower[0])
