"""The order of a leaderboard; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from fl_server.config.usecase import ScoreRule


class Scored(Protocol):
    """What can be ranked."""

    @property
    def score(self) -> float | None:
        """The score; ``None`` where it is absent."""

    @property
    def submitted_at(self) -> datetime:
        """When it was entered: the earlier one is listed first among equals."""


Row = TypeVar("Row", bound=Scored)


@dataclass(frozen=True)
class Ranked(Generic[Row]):
    """A row and its place; ``None``: no score, so no place."""

    rank: int | None
    row: Row


def rank(rows: Iterable[Row], rule: ScoreRule) -> list[Ranked[Row]]:
    """Order ``rows`` best first.

    Equal scores share a place and the next one is skipped (1, 1, 3). Rows without a finite score
    come last and have no place. Within a place the earlier submission comes first.
    """
    keyed = [(rule.sort_key(row.score), row) for row in rows]
    keyed.sort(key=lambda item: (item[0], item[1].submitted_at))
    ranked: list[Ranked[Row]] = []
    place = 0
    for position, (value, row) in enumerate(keyed, start=1):
        if position == 1 or value != keyed[position - 2][0]:
            place = position
        ranked.append(Ranked(place if math.isfinite(value) else None, row))
    return ranked
