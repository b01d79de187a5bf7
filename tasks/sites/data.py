"""What every task knows of a site once it is read: its splits, and notes for its operator."""

from __future__ import annotations

import os
from collections.abc import Sequence, Sized
from itertools import combinations
from typing import Generic, TypeVar

from fl_common.errors import DataError
from tasks.contract import HOLDOUT, TRAIN, VALIDATION, DataSource

T = TypeVar("T", bound=Sized)


class SiteSplits(Generic[T]):
    """A site's training, validation and holdout split (``contract.SiteData``).

    Parameters
    ----------
    train, holdout : sized
        Rows or pictures, in the task's own form.
    notes : sequence of str
        What the operator should know.
    validation : sized or None
        None: the site has no rows that choose between rounds.
    """

    def __init__(
        self, name: str, train: T, holdout: T, notes: Sequence[str], *, validation: T | None = None
    ) -> None:
        self.name = name
        self.train = train
        self.validation = validation
        self.holdout = holdout
        self._notes = tuple(notes)

    @property
    def num_train(self) -> int:
        """Number of training rows or pictures."""
        return len(self.train)

    @property
    def num_validation(self) -> int:
        """Number of rows or pictures that choose between rounds."""
        return 0 if self.validation is None else len(self.validation)

    @property
    def num_holdout(self) -> int:
        """Number of held-out rows or pictures."""
        return len(self.holdout)

    @property
    def notes(self) -> list[str]:
        """What the site's operator should know; never leaves the site."""
        return list(self._notes)

    def split(self, name: str) -> T:
        """Return the rows or pictures of ``train``, ``validation`` or ``holdout``.

        Raises
        ------
        DataError
            If the site has none of them: another split never stands in.
        """
        found = {TRAIN: self.train, VALIDATION: self.validation, HOLDOUT: self.holdout}.get(name)
        if found is None:
            raise DataError(f"site '{self.name}' has no {name} rows")
        return found


def require_distinct(source: DataSource) -> None:
    """Refuse one file as two splits: what trains or chooses would score, too.

    Raises
    ------
    DataError
        Naming the two keys and the file.
    """
    given = {TRAIN: source.train, VALIDATION: source.validation, HOLDOUT: source.holdout}
    files = {key: os.path.realpath(file) for key, file in given.items() if file is not None}
    for one, other in combinations(files, 2):
        if files[one] == files[other]:
            raise DataError(
                f"site '{source.name}': data.{one} and data.{other} are the same file "
                f"({given[other]}); give another file, or leave out data.{other} and let "
                f"data.{other}_fraction split the rows"
            )
