"""Check the values that image use cases share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fl_common.errors import ConfigError
from fl_common.words import canonical
from tasks.images.pixels import IMAGENET

POOLED, NONE = "pooled", "none"
Numbers = tuple[float, ...] | None
Check = Callable[[str, Any], None]
"""(key, value); raises ConfigError naming the key and what it may be."""


def number(low: float, high: float, *, whole: bool) -> Check:
    """Accept numbers from ``low`` to ``high``."""

    def check(key: str, value: Any) -> None:
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not low <= value <= high:
            raise ConfigError(f"{key} is {value!r}; expected {low:g} to {high:g}")

    return check


def one_of(*options: Any) -> Check:
    """Accept one of a few values."""

    def check(key: str, value: Any) -> None:
        if value not in options or isinstance(value, bool):
            raise ConfigError(f"{key} is {value!r}; expected {' or '.join(map(str, options))}")

    return check


def text(key: str, value: Any) -> None:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} is {value!r}; expected a text")


def read_classes(value: Any, least: int = 2) -> tuple[str, ...]:
    """Check ``usecase.classes``: at least so many, and all different."""
    if not isinstance(value, list | tuple) or len(value) < least:
        raise ConfigError(f"usecase.classes is {value!r}; list at least {least}, in their order")
    names = tuple(item if isinstance(item, str) else canonical(item) for item in value)
    if len({canonical(name) for name in names}) < len(names):
        raise ConfigError("usecase.classes names a class twice")
    return names


def read_normalisation(rule: Any, channels: int) -> tuple[Numbers, Numbers]:
    """Return mean and spread by channel, or None for both where the sites' pixels decide."""
    if rule == POOLED:
        return None, None
    if rule == NONE:
        return (0.0,) * channels, (1.0,) * channels
    if rule == "imagenet" and channels == 3:
        return IMAGENET
    pair: list[Any] = [rule.get(k) for k in ("mean", "std")] if isinstance(rule, Mapping) else []
    if not pair or set(rule) != {"mean", "std"}:
        raise ConfigError(
            f"usecase.normalise is {rule!r}; expected pooled, none, imagenet (3 channels), or "
            "{mean: [...], std: [...]} of values from 0 to 1"
        )
    listed = [v if isinstance(v, list | tuple) else [v] * channels for v in pair]
    if any(not isinstance(x, int | float) for values in listed for x in values):
        raise ConfigError(f"usecase.normalise is {rule!r}; expected numbers")
    mean, std = (tuple(float(x) for x in values) for values in listed)
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ConfigError(
            f"usecase.normalise is {rule!r}; expected {channels} numbers each, std above 0"
        )
    return mean, std
