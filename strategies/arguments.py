"""Checks of a strategy's own arguments, made with it: a wrong one stops the launch, not a round."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from fl_common.errors import ConfigError


def check_number(
    key: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number with ``value >= least``, ``value > above`` and ``value < below``.

    Raises
    ------
    ConfigError
        Naming ``strategy.KEY`` and what it may be.
    """
    real = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not real or value < least or value <= above or value >= below:
        limits = {"at least": least, "above": above, "below": below}
        finite = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        kind = ", ".join(["a number", *finite])
        raise ConfigError(f"strategy.{key} must be {kind}, got {value!r}")
    return float(value)


def check_whole(key: str, value: Any, *, least: int, kind: str = "a whole number") -> int:
    """Return a whole number, ``value >= least``.

    Raises
    ------
    ConfigError
        Naming ``strategy.KEY`` and what it may be.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ConfigError(f"strategy.{key} must be {kind}, at least {least}, got {value!r}")
    return int(value)


def check_whole_or_null(key: str, value: Any, *, least: int) -> int | None:
    """Return a whole number as ``check_whole`` does, or None, which leaves it to the rule."""
    return None if value is None else check_whole(key, value, least=least, kind="null or whole")
