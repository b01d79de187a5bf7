"""Words as people write them: near matches, lists for messages, one text for equal values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

_WHOLE = re.compile(r"[+-]?\d+\.0+")
_TRUTH = {"true": "1", "false": "0"}


def canonical(value: Any) -> str:
    """Return one text for values that mean the same category.

    >>> canonical(1), canonical(1.0), canonical(True), canonical("1.0"), canonical(" a ")
    ('1', '1', '1', '1', 'a')
    """
    text = str(value).strip()
    if _WHOLE.fullmatch(text):
        return text.partition(".")[0]
    return _TRUTH.get(text.lower(), text)


def nearest(word: str, options: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the options that look most like a word, the nearest first; none that does not."""
    return get_close_matches(word, list(options), n=most, cutoff=cutoff)


def suggest(word: str, options: Iterable[str]) -> str:
    """Return the end of a message: the nearest option, or all of them if they are few."""
    options = list(options)
    if near := nearest(word, options):
        return f"; did you mean '{near[0]}'?"
    return f"; choose from {quoted(options)}" if options else ""


def quoted(options: Iterable[str], limit: int = 12) -> str:
    """Return ``'a', 'b' and 3 more``."""
    names = list(options)
    listed = ", ".join(f"'{name}'" for name in names[:limit])
    return listed if len(names) <= limit else f"{listed} and {len(names) - limit} more"
