"""Values that no type would let through, for the checks that must hold all the same."""

from __future__ import annotations

import copy
from typing import TypeVar

T = TypeVar("T")


def unchecked(made: T, **values: object) -> T:
    """Return a copy of a checked dataclass with values that it would refuse."""
    changed = copy.copy(made)
    for key, value in values.items():
        object.__setattr__(changed, key, value)
    return changed
