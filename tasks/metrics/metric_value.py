"""A metric's value, or the reason why it has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tasks.scores import Scores

MetricValue = float | str
"""A float is the value; a string the reason why the pooled data do not define it."""

NO_ROWS = "no rows in the pooled holdout"


def ratio(numerator: float, denominator: float, reason: str) -> MetricValue:
    """Return the quotient, or ``reason`` where the denominator is zero."""
    return float(numerator / denominator) if denominator else reason


def apply(outcome: MetricValue, function: Callable[[float], float]) -> MetricValue:
    """Return ``function`` of a value; a reason passes through."""
    return outcome if isinstance(outcome, str) else function(outcome)


def collect(
    outcomes: Mapping[str, MetricValue],
    bounds: Mapping[str, float] | None = None,
    arrays: Mapping[str, Any] | None = None,
) -> Scores:
    """Split outcomes into values and absences; a value that is not finite is absent."""
    scores = Scores(arrays=dict(arrays or {}))
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            scores.absent[name] = outcome
        elif not math.isfinite(outcome):
            scores.absent[name] = "not a finite number on the pooled data"
        else:
            scores.values[name] = float(outcome)
    scores.bounds.update({n: float(b) for n, b in (bounds or {}).items() if n in scores.values})
    return scores
