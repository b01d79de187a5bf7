"""Check the values that image use cases share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fl_common.errors import ConfigError
from fl_common.words import canonical, suggest
from tasks.images.pixels import IMAGENET, RESIZES

POOLED, NONE = "pooled", "none"
_RESIZE_BEFORE: dict[str, dict[Any, str]] = {
    "fit": {},
    "letterbox": {True: "pad", False: "stretch"},
}
"""Former names of ``resize``, and what their values are called now."""
Numbers = tuple[float, ...] | None
ValueCheck = Callable[[str, Any], None]
"""(key, value); raises ConfigError naming the key and what it may be."""


def number(low: float, high: float, *, whole: bool) -> ValueCheck:
    """Accept numbers from ``low`` to ``high``."""

    def check(key: str, value: Any) -> None:
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not low <= value <= high:
            raise ConfigError(f"{key} is {value!r}; expected {low:g} to {high:g}")

    return check


def one_of(*options: Any) -> ValueCheck:
    """Accept one of a few values."""

    def check(key: str, value: Any) -> None:
        if value not in options or isinstance(value, bool):
            raise ConfigError(f"{key} is {value!r}; expected {' or '.join(map(str, options))}")

    return check


def text(key: str, value: Any) -> None:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} is {value!r}; expected a text")


def require_known(schema: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that an image use case has not, and one that it had by another name.

    Raises
    ------
    ConfigError
        Naming the key that is near, or the new name and value.
    """
    for key, value in schema.items():
        if key in _RESIZE_BEFORE:
            new = _RESIZE_BEFORE[key].get(value, value if value in RESIZES else RESIZES[0])
            raise ConfigError(f"usecase.{key} was renamed to resize; write usecase.resize={new}")
        if key not in known:
            raise ConfigError(f"usecase schema has no key '{key}'{suggest(str(key), known)}")


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
