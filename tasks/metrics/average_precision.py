r"""COCO's interpolated average precision from score bins, and what can be proven from them.

Symbols, for one class and one IoU threshold, bins by falling score: ``p``, ``n`` true and false
positives of a bin; ``T``, ``F`` those of the bins above it; ``g`` ground-truth boxes.

COCO reads the precision at 101 recalls ``r = 0, 0.01, ... 1``: with ``k(r)`` the least number of
true positives that reaches recall r, it takes ``max over k' >= k(r) of k' / (k' + F(k'))``, where
``F(k')`` is the number of false positives ranked above the k'-th true positive (0 if there are
fewer than ``k(r)`` true positives). The bins fix everything but ``F(k')``: if the k'-th true
positive lies in bin b, then

.. math:: F_b \le F(k') \le F_b + n_b

whatever the order within the bin, equal scores included. Both limits give a precision that grows
with ``k'`` inside a bin, so the largest is at the bin's last true positive, and the maximum over
``k' >= k`` is a running maximum over bins. The exact value therefore lies between the mean over r
of the two running maxima. The value reported puts the j-th of a bin's true positives below
``j n / (p + 1)`` of its false positives, their expected number in a random order; it is between the
limits too, and the bound is its distance to the further one.

References
----------
COCO evaluation, ``pycocotools/cocoeval.py`` (``accumulate``).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

RECALLS = np.linspace(0.0, 1.0, 101)
LOGIT_RANGE = 17.0
"""Largest logit with a bin; single-precision sigmoids saturate at 16.6."""
LOGIT_KNEE = 3.0
"""Bins are uniform in logit within the knee and widen in proportion to the distance beyond it."""


def num_detection_bins(num_classes: int) -> int:
    """Return the number of score bins per class: 2048 up to 10 classes, 1024 up to 20, then 512.

    A reply holds ``11 * classes * bins`` counts of 8 bytes: 0.5 MB for 3 classes, 1.8 MB for 10,
    3.6 MB for 80.
    """
    if num_classes <= 10:
        return 2048
    return 1024 if num_classes <= 20 else 512


@lru_cache(maxsize=8)
def detection_edges(num_classes: int) -> Floats:
    """Return the lower edges of every score bin but the first.

    Uniform in ``asinh(logit(score) / 3)``: 0.007 in logit (0.002 in score) around one half with
    2048 bins, wider towards 0 and 1, where detectors score background and saturate. The first bin
    holds scores below the range and the last those above it.

    Returns
    -------
    array, shape (bins - 1,), float64, in (0, 1), ascending
        Bin of a score: the number of edges <= it.
    """
    reach = np.arcsinh(LOGIT_RANGE / LOGIT_KNEE)
    logits = LOGIT_KNEE * np.sinh(np.linspace(-reach, reach, num_detection_bins(num_classes) - 1))
    edges = 1.0 / (1.0 + np.exp(-logits))
    edges.setflags(write=False)
    return edges


def interpolated_precision(
    hits: Counts, misses: Counts, num_truth: int
) -> tuple[Floats, Floats, Floats]:
    """Return COCO's 101-point average precision with its proven limits.

    Parameters
    ----------
    hits : array, shape (t, bins), int64
        True positives by score bin, ascending scores, for each of t IoU thresholds.
    misses : array, shape (t, bins), int64
        False positives.
    num_truth : int, >= 1
        Ground-truth boxes of the class.

    Returns
    -------
    value, lower, upper : arrays, shape (t,), float64, in [0, 1]
        The exact value of the pooled detections lies in [lower, upper], and so does ``value``.

    Examples
    --------
    One true positive above one false positive above another true positive, in bins of their own:

    >>> hits, misses = np.array([[1, 0, 1]]), np.array([[0, 1, 0]])
    >>> value, lower, upper = interpolated_precision(hits, misses, 2)
    >>> float(value[0].round(4)), float(lower[0].round(4)), float(upper[0].round(4))
    (0.835, 0.835, 0.835)
    """
    wanted = _true_positives_needed(num_truth)  # (101,)
    rows = [_limits(h[::-1], m[::-1], wanted) for h, m in zip(hits, misses, strict=True)]
    value, lower, upper = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return value, lower, upper


def _limits(hits: NDArray[Any], misses: NDArray[Any], wanted: Floats) -> tuple[float, float, float]:
    """Return value, lower and upper limit of one curve; bins by falling score."""
    used = hits > 0
    false_above = (np.cumsum(misses) - misses)[used].astype(np.float64)
    found, mixed = hits[used].astype(np.float64), misses[used].astype(np.float64)
    reached = np.cumsum(found)
    if not len(found):
        return 0.0, 0.0, 0.0
    pace = mixed / (found + 1.0)
    best = _running_maximum(reached / (reached + false_above))
    worst = _running_maximum(reached / (reached + false_above + mixed))
    even = _running_maximum(reached / (reached + false_above + pace * found))
    reachable = wanted[wanted <= reached[-1]]
    cell = reached.searchsorted(reachable, "left")
    within = reachable - (reached[cell] - found[cell])  # 1..p: which true positive of its bin
    own = reachable / (reachable + false_above[cell] + pace[cell] * within)
    value = np.maximum(own, even[cell])
    points = len(RECALLS)
    return (
        float(value.sum() / points),
        float(worst[cell].sum() / points),
        float(best[cell].sum() / points),
    )


def _running_maximum(precision: Floats) -> Floats:
    """Return the largest precision at this or any lower score."""
    return np.maximum.accumulate(precision[::-1])[::-1]


@lru_cache(maxsize=256)
def _true_positives_needed(num_truth: int) -> Floats:
    """Return the least k with ``k / g >= r`` in float64, at least 1, for each of the recalls."""
    needed = np.ceil(RECALLS * num_truth)
    needed += needed / num_truth < RECALLS
    needed -= (needed - 1.0) / num_truth >= RECALLS
    return np.maximum(needed, 1.0)
