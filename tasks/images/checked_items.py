"""Every usable picture of one source, before it is cut into sites and splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import DataError
from tasks.images.issues import ImageReport

T = TypeVar("T")
DATASET = "dataset:"


@dataclass(frozen=True)
class Pool(Generic[T]):
    """Usable pictures and what the operator should know of the others.

    Parameters
    ----------
    ordered : bool
        Neighbours are nearly alike (frames of a film), so a split must not shuffle them.
    """

    items: tuple[T, ...]
    notes: tuple[str, ...]
    ordered: bool = False

    def take(self, rows: NDArray[np.int64]) -> tuple[T, ...]:
        """Return the pictures at ``rows``."""
        return tuple(self.items[i] for i in rows)


def usable(
    name: str, found: Iterable[T | None], report: ImageReport, *, ordered: bool = False
) -> Pool[T]:
    """Gather the pictures that passed their check; those that did not are in ``report``.

    Raises
    ------
    DataError
        If the report's policy refuses, or nothing is left.
    """
    items = tuple(item for item in found if item is not None)
    report.check(name)
    if not items:
        raise DataError(f"{name}: no usable picture; {'; '.join(report.notes()) or 'add some'}")
    return Pool(items, tuple(report.notes()), ordered)


def require_two(pool: Pool[T], origin: str, site: str) -> None:
    """Refuse a site that has nothing to hold out.

    Raises
    ------
    DataError
        If there is one picture only.
    """
    if len(pool.items) < 2:
        raise DataError(f"{origin}: site '{site}' has one picture; it needs at least 2")
