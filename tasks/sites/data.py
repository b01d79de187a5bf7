"""What every task knows of a site once it is read: its two splits, and notes for its operator."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Generic, TypeVar

T = TypeVar("T", bound=Sized)


class SiteSplits(Generic[T]):
    """A site's training and holdout split (``contract.SiteData``).

    Parameters
    ----------
    train, holdout : sized
        Rows or pictures, in the task's own form.
    notes : sequence of str
        What the operator should know.
    """

    def __init__(self, name: str, train: T, holdout: T, notes: Sequence[str]) -> None:
        self.name = name
        self.train = train
        self.holdout = holdout
        self._notes = tuple(notes)

    @property
    def num_train(self) -> int:
        """Number of training rows or pictures."""
        return len(self.train)

    @property
    def num_holdout(self) -> int:
        """Number of held-out rows or pictures."""
        return len(self.holdout)

    @property
    def notes(self) -> list[str]:
        """What the site's operator should know; never leaves the site."""
        return list(self._notes)
