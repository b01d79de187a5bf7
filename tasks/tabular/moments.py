"""Counts, sums and sums of squares that stay exact when they are added.

A variance from plain sums of squares is noise where the mean is much larger than the spread (a
year of time stamps, an identifier). Here each sum travels as a few float64 *parts* of falling
size, the large ones with at most 27 significant bits, so that adding sites loses nothing; the
server adds the parts up in rational arithmetic.

References
----------
T. J. Dekker (1971). A floating-point technique for extending the available precision. Numerische
Mathematik 18 (splitting).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tasks.stats import Stats

SUM_PARTS = 3
SQUARE_PARTS = 5

LOWEST, HIGHEST = 1e-6, 1e9
BINS_PER_SIGN = 749
BIN_ERROR: float = (HIGHEST / LOWEST) ** (1 / BINS_PER_SIGN) - 1
"""Largest relative error of a histogram median with 1e-6 <= |median| < 1e9: 4.7 %."""

Floats = NDArray[np.float64]
_EPSILON = float(np.finfo(np.float64).eps)
_RESOLUTION = 2.0**-36  # of a standard deviation relative to the mean, once sites are added
_SPLITTER = 2.0**27 + 1


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of one column's present values."""

    count: int
    mean: float
    variance: float

    @property
    def scale(self) -> float:
        """Standard deviation; 1 for a constant column, told from rounding as sklearn does.

        Its relative error is below 1e-6 up to a mean of 3e8 standard deviations.
        """
        rounding = self.count * _EPSILON * self.variance + (self.count * self.mean * _EPSILON) ** 2
        rounding = max(rounding, (self.mean * _RESOLUTION) ** 2)
        return 1.0 if self.variance <= rounding else math.sqrt(self.variance)


def moment_stats(values: Floats) -> Stats:
    """Return the summands of each column's mean and variance.

    Parameters
    ----------
    values : array, shape (n, p), float64, |value| <= 1e140
        NaN is missing.

    Returns
    -------
    Stats
        ``count`` (p,) int64; ``sum`` (p, 3) and ``squares`` (p, 5) float64: a row of parts adds
        up to the sum.
    """
    present = ~np.isnan(values)
    count = present.sum(axis=0)
    filled = np.where(present, values, 0.0)
    pivot = _head(filled.sum(axis=0) / np.maximum(count, 1))  # 26 bits, so its square is exact
    rest = np.where(present, values - pivot, 0.0)
    drift, spread = rest.sum(axis=0), np.square(rest).sum(axis=0)
    base = count * pivot
    square = pivot * pivot
    square_head = _head(square)
    top = count * square_head
    drift_head = _head(drift)
    return Stats(
        {
            "count": count,
            "sum": np.stack([_head(base), base - _head(base), drift], axis=1),
            "squares": np.stack(
                [
                    _head(top),
                    top - _head(top),
                    count * (square - square_head),
                    2.0 * pivot * drift_head,
                    2.0 * pivot * (drift - drift_head) + spread,
                ],
                axis=1,
            ),
        }
    )


def finalise_moments(stats: Stats) -> list[Moments]:
    """Return each column's moments from pooled ``moment_stats``; 0 where nothing is present."""
    columns = zip(stats["count"], stats["sum"], stats["squares"], strict=True)
    return [_moments(int(count), total, squares) for count, total, squares in columns]


def _moments(count: int, total: Floats, squares: Floats) -> Moments:
    if count == 0:
        return Moments(0, 0.0, 0.0)
    mean = sum(map(Fraction, total.tolist()), Fraction()) / count
    variance = sum(map(Fraction, squares.tolist()), Fraction()) / count - mean * mean
    return Moments(count, float(mean), max(0.0, float(variance)))


def _head(values: Floats) -> Floats:
    """Return the leading 26 bits of each value."""
    scaled = values * _SPLITTER
    return np.asarray(scaled - (scaled - values))


def value_histogram(values: Floats) -> NDArray[np.int64]:
    """Count each column's values in logarithmic bins that do not depend on the data.

    Parameters
    ----------
    values : array, shape (n, p), float64
        NaN is missing.

    Returns
    -------
    array, shape (p, 1499), int64
        Bins from -1e9 to 1e9 by growing value; the middle one holds |value| < 1e-6.
    """
    histogram = np.empty((values.shape[1], 2 * BINS_PER_SIGN + 1), dtype=np.int64)
    for j in range(values.shape[1]):
        column = values[~np.isnan(values[:, j]), j]
        with np.errstate(divide="ignore"):
            steps = np.floor(np.log(np.abs(column) / LOWEST) / math.log1p(BIN_ERROR)) + 1
        steps = np.clip(steps, 0, BINS_PER_SIGN) * np.sign(column)
        index = steps.astype(np.int64) + BINS_PER_SIGN
        histogram[j] = np.bincount(index, minlength=histogram.shape[1])
    return histogram


def histogram_median(histogram: NDArray[np.int64], moments: Moments) -> float:
    """Return the median, interpolated within its bin.

    Its error is at most ``BIN_ERROR`` relative (1e-6 absolute near zero), and never more than two
    standard deviations: no median is further than one from the mean.
    """
    last = int(histogram.sum()) - 1
    middle = (_value_at(histogram, last // 2) + _value_at(histogram, (last + 1) // 2)) / 2
    spread = math.sqrt(moments.variance)
    return min(max(middle, moments.mean - spread), moments.mean + spread)


def _value_at(histogram: NDArray[np.int64], rank: int) -> float:
    cumulative = np.cumsum(histogram)
    index = int(np.searchsorted(cumulative, rank, side="right"))
    before = int(cumulative[index - 1]) if index else 0
    share = (rank - before + 0.5) / int(histogram[index])
    step = abs(index - BINS_PER_SIGN)  # 0: the middle bin
    if step == 0:
        return 0.0
    low = float(LOWEST * math.exp((step - 1) * math.log1p(BIN_ERROR)))
    if index > BINS_PER_SIGN:
        return low * (1 + BIN_ERROR * share)
    return -low * (1 + BIN_ERROR * (1 - share))
