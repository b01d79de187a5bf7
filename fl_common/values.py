"""Check plain values: each check names the key, what it may be and what it got."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from fl_common.errors import ConfigError

Check = Callable[[str, Any], Any]
"""(key, value) -> value; raises ConfigError naming the key."""
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def whole(least: int = 0, most: int | None = None) -> Check:
    """Accept whole numbers from ``least`` to ``most``."""

    def check(key: str, value: Any) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            upto = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(f"{key} must be a whole number, {upto}, got {value!r}")
        return value

    return check


def number(least: float = -math.inf, *, above: bool = False) -> Check:
    """Accept finite numbers from ``least`` on, or only ``above`` it."""

    def check(key: str, value: Any) -> Any:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value < least or (above and value == least):
            if least == 0:
                kind = "a positive number" if above else "a number, at least 0"
            else:
                kind = "a number" if least == -math.inf else f"a number, at least {least:g}"
            raise ConfigError(f"{key} must be {kind}, got {value!r}")
        return value

    return check


def flag(key: str, value: Any) -> bool:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, got {value!r}")
    return value


def text(key: str, value: Any) -> str:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} must be a text, got {value!r}")
    return value


def texts(key: str, value: Any) -> list[str]:
    """Accept a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{key} must be a list, as [a,b], got {value!r}")
    return value


def either(*options: str) -> Check:
    """Accept one of a few words."""

    def check(key: str, value: Any) -> Any:
        if value not in options:
            raise ConfigError(f"{key} is {value!r}; expected {' or '.join(options)}")
        return value

    return check


def slug(key: str, value: Any) -> str:
    """Accept what can name a folder and a page."""
    name = str(value)
    if not _SLUG.fullmatch(name):
        raise ConfigError(f"{key} must be letters, digits, '.', '_' and '-', got {name!r}")
    return name


def optional(check: Check) -> Check:
    """Accept null too."""
    return lambda key, value: None if value is None else check(key, value)


def section(key: str, value: Any) -> Mapping[str, Any]:
    """Accept keys below a key."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must have keys below it, got {value!r}")
    return value


def each(group: str, raw: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Check every value of a group.

    Raises
    ------
    ConfigError
        Naming the key and what it may be; an unknown key with its near match.
    """
    for key, value in section(group, raw).items():
        if key not in checks:
            near = get_close_matches(str(key), checks, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(checks)}"
            raise ConfigError(f"unknown key '{group}.{key}'; {hint}")
        checks[key](f"{group}.{key}", value)
