"""Check single values of an image use case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.errors import ConfigError

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
