"""The further numbers of a round and of a site: a column of the leaderboard is one line here.

From it derive the record, the table's column, the stored value, the field in the JSON answers and
in ``result.json``, and the column of the pages. Beside the line a column needs a migration
(``leaderboard/migrations``) and whoever measures it (the round loop).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Column:
    """How a number is shown; where no run has one, the column is left out.

    Parameters
    ----------
    label, hint : str
        Its heading, and what it means.
    of_final_round : bool
        Whether the ranking shows that of the final round, or of the last.
    """

    label: str
    hint: str
    of_final_round: bool = False


def column(label: str, hint: str, *, of_final_round: bool = False) -> Any:
    """Declare a field that is a column; ``None`` where nothing was measured."""
    return field(default=None, metadata={"column": Column(label, hint, of_final_round)})


@dataclass(frozen=True, kw_only=True)
class RoundColumns:
    """What is kept of a round, and shown of a run in the ranking."""

    epsilon: float | None = column("Epsilon", "what differential privacy has spent so far")
    validation_score: float | None = column(
        "Validation", "on the rows that choose the final round", of_final_round=True
    )


@dataclass(frozen=True, kw_only=True)
class SiteColumns:
    """What is kept of a site in an exchange."""

    epsilon: float | None = column("Epsilon", "what the site's private training has spent so far")


def columns_of(kind: type[RoundColumns] | type[SiteColumns]) -> dict[str, Column]:
    """Return the declared columns by name."""
    found = {item.name: item.metadata.get("column") for item in fields(kind)}
    return {name: column for name, column in found.items() if column is not None}


def values_of(record: RoundColumns | SiteColumns) -> dict[str, float | None]:
    """Return what a record has in its columns."""
    return {name: getattr(record, name) for name in columns_of(type(record))}
