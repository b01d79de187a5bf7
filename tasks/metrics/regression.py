"""Exact pooled metrics for regression.

A site's rows become three arrays that add up: counts, sums, and a histogram of absolute errors. The
target's moments are taken about ``shift``, the global mean known from preprocessing: with a mean
much larger than the standard deviation, plain sums of squares would cancel and R2 be noise.

Finalising uses closed formulas in float64. torchmetrics' ``R2Score`` and ``ExplainedVariance`` hold
the same sums, but unshifted and in float32, and give 0 or 1 for a constant target; here such a
metric is absent, with its reason. Torch is not imported.

References
----------
T. F. Chan, G. H. Golub, R. J. LeVeque (1983). Algorithms for computing the sample variance. The
American Statistician 37 (shifted data, eq. 2.4).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, DivergedError, ReplyError
from tasks.metrics.catalog import metric_names
from tasks.metrics.histograms import error_histogram, largest_error, median_error, num_error_bins
from tasks.metrics.metric_value import NO_ROWS, MetricValue, collect
from tasks.scores import Scores
from tasks.stats import Stats

COUNTS = ("rows", "zero_targets", "rows_at_or_below_minus_one")
SUMS = (
    "target",  # target - shift
    "target_squared",
    "error",  # prediction - target
    "error_squared",
    "error_absolute",
    "error_relative",
    "error_symmetric",
    "log_error_squared",
)
VARIANCE_TOLERANCE = 1e-12
"""Variance below this share of the mean square about the shift is rounding, not variance."""
_EPSILON = float(np.finfo(np.float64).eps)


def regression_stats(
    targets: NDArray[Any], predictions: NDArray[Any], *, scale: float, shift: float = 0.0
) -> Stats:
    """Return the metric summands of some rows.

    Parameters
    ----------
    targets, predictions : array, shape (n,), float, target units
        n may be 0.
    scale : float, > 0, target units
        Global standard deviation of the target; it fixes the edges of the error histogram.
    shift : float, target units
        Global mean of the target. R2 is exact to 1e-9 while the pooled mean lies within about
        1,000 standard deviations of it.

    Returns
    -------
    Stats
        ``counts`` (3,) int64 in the order of `COUNTS`; ``sums`` (8,) float64 in the order of
        `SUMS`; ``error_histogram`` (771,) int64.

    Raises
    ------
    ConfigError
        If ``scale`` is not a finite positive number or ``shift`` not finite.
    DataError
        If the shapes differ or a target is not finite.
    DivergedError
        If a prediction is not finite, or so large that its squared error overflows.

    Notes
    -----
    Privacy: counts and sums only. For a single row they are that row's, so a site's minimum group
    size must be enforced by its policy.
    """
    _check_units(scale, shift)
    truth = np.asarray(targets, dtype=np.float64)
    values = np.asarray(predictions, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise DataError(
            f"targets have shape {truth.shape} and predictions {values.shape}; expected (n,) twice"
        )
    if not np.isfinite(truth).all():
        raise DataError("a target is NaN or infinite; drop or repair the row")
    if not np.isfinite(values).all():
        raise DivergedError("the model's predictions are not finite; lower the learning rate")
    return _sums(truth, values, scale, shift)


def _check_units(scale: float, shift: float) -> None:
    if not (math.isfinite(scale) and scale > 0.0 and math.isfinite(shift)):
        raise ConfigError(
            f"regression metrics need a finite scale > 0 and a finite shift, got scale={scale}, "
            f"shift={shift}; a constant target cannot be scored"
        )


def _sums(
    truth: NDArray[np.float64], values: NDArray[np.float64], scale: float, shift: float
) -> Stats:
    centred = truth - shift
    size, valid = np.abs(truth), (truth > -1.0) & (values > -1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        error = values - truth
        absolute = np.abs(error)
        span = size + np.abs(values)
        relative = (absolute / np.maximum(size, _EPSILON))[size > 0.0]
        symmetric = np.divide(200.0 * absolute, span, out=np.zeros(len(span)), where=span > 0.0)
        log_error = np.log1p(values[valid]) - np.log1p(truth[valid])
        sums = np.array(
            [
                centred.sum(),
                np.dot(centred, centred),
                error.sum(),
                np.dot(error, error),
                absolute.sum(),
                relative.sum(),
                symmetric.sum(),
                np.dot(log_error, log_error),
            ]
        )
    if not np.isfinite(sums).all():
        raise DivergedError("the model's squared errors overflow; lower the learning rate")
    counts = [len(truth), len(truth) - len(relative), len(truth) - len(log_error)]
    return Stats(
        {
            "counts": np.array(counts, dtype=np.int64),
            "sums": sums,
            "error_histogram": error_histogram(absolute, scale),
        }
    )


def finalise_regression(stats: Stats, *, scale: float, shift: float = 0.0) -> Scores:
    """Turn pooled summands into every regression metric; pure.

    Parameters
    ----------
    stats : Stats
        The sum of `regression_stats` over sites; ``Stats()`` counts as no rows.
    scale, shift : float, target units
        As given to `regression_stats`.

    Returns
    -------
    Scores
        Each name of ``metric_names("regression")`` in ``values`` or ``absent``; ``bounds`` for
        ``median_absolute_error`` and ``max_error``, in target units.

    Raises
    ------
    ConfigError
        If ``scale`` is not a finite positive number or ``shift`` not finite.
    ReplyError
        If a summand has another shape than expected.
    """
    _check_units(scale, shift)
    counts = _unpack(stats, "counts", len(COUNTS), np.int64)
    sums = _unpack(stats, "sums", len(SUMS), np.float64)
    histogram = _unpack(stats, "error_histogram", num_error_bins(), np.int64)
    if counts[0] == 0:
        return collect(dict.fromkeys(metric_names("regression"), NO_ROWS))
    num = dict(zip(COUNTS, counts.tolist(), strict=True))
    mean = dict(zip(SUMS, (sums / counts[0]).tolist(), strict=True))
    outcomes = _means(num, mean) | _variance_shares(num["rows"], mean)
    # No error exceeds the root of the sum of squares: this closes the open last bin.
    ceiling = math.sqrt(sums[SUMS.index("error_squared")])
    bounds: dict[str, float] = {}
    for name, read in (("median_absolute_error", median_error), ("max_error", largest_error)):
        outcomes[name], bounds[name] = read(histogram, scale, ceiling)
    return collect(outcomes, bounds)


def _unpack(stats: Stats, name: str, length: int, dtype: Any) -> NDArray[Any]:
    array = stats.get(name, np.zeros(length, dtype))
    if array.shape != (length,):
        raise ReplyError(f"summand '{name}' has shape {array.shape}, expected ({length},)")
    return array


def _means(num: dict[str, int], mean: dict[str, float]) -> dict[str, MetricValue]:
    zeros, low = num["zero_targets"], num["rows_at_or_below_minus_one"]
    return {
        "mae": mean["error_absolute"],
        "mse": mean["error_squared"],
        "rmse": math.sqrt(mean["error_squared"]),
        "mbe": mean["error"],
        "smape": mean["error_symmetric"],
        "mape": f"{zeros} pooled targets are 0" if zeros else mean["error_relative"],
        "rmsle": (
            f"{low} pooled rows have a target or prediction <= -1"
            if low
            else math.sqrt(mean["log_error_squared"])
        ),
    }


def _variance_shares(num_rows: int, mean: dict[str, float]) -> dict[str, MetricValue]:
    variance = mean["target_squared"] - mean["target"] ** 2
    reason = ""
    if num_rows < 2:
        reason = "needs at least two pooled rows"
    elif variance <= VARIANCE_TOLERANCE * mean["target_squared"]:
        reason = "the pooled targets do not vary"
    if reason:
        return {"r2": reason, "explained_variance": reason}
    error_variance = max(0.0, mean["error_squared"] - mean["error"] ** 2)
    return {
        "r2": 1.0 - mean["error_squared"] / variance,
        "explained_variance": 1.0 - error_variance / variance,
    }
