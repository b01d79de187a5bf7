"""Every usable picture of one source, before it is cut into sites and splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import DataError
from tasks.images.issues import ImageIssues

T = TypeVar("T")


@dataclass(frozen=True)
class CheckedItems(Generic[T]):
    """Usable pictures and what the operator should know of the others.

    Parameters
    ----------
    ordered : bool
        Neighbours are nearly alike (frames of a film), so a split must not shuffle them.
    digests : mapping of str to bytes
        Of each picture's content, by its name.
    """

    items: tuple[T, ...]
    notes: tuple[str, ...]
    ordered: bool = False
    digests: Mapping[str, bytes] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64]) -> tuple[T, ...]:
        """Return the pictures at ``rows``."""
        return tuple(self.items[i] for i in rows)


def checked_items(
    name: str, items: tuple[T, ...], issues: ImageIssues, *, ordered: bool = False
) -> CheckedItems[T]:
    """Return the pictures that passed their check; those that did not are in ``issues``.

    Raises
    ------
    DataError
        If the policy refuses, or nothing is left.
    """
    issues.check(name)
    if not items:
        raise DataError(f"{name}: no usable picture; {'; '.join(issues.notes()) or 'add some'}")
    return CheckedItems(items, tuple(issues.notes()), ordered)
