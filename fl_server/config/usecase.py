"""The use case as a run knows it: its score, and what the leaderboard shows of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreRule:
    """The use case's one number and which way is better.

    Parameters
    ----------
    name : str
        A metric key such as ``f1_macro``, or ``scope/metric`` for a subgroup or block
        (``subgroups/SMA/recall_macro``).
    direction : {"max", "min", "zero"}
        ``zero``: closest to zero wins, so a mean bias of 0.1 beats -9.
    """

    name: str
    direction: str = "max"


@dataclass(frozen=True)
class UseCaseInfo:
    """A competition as the leaderboard shows it."""

    slug: str
    title: str
    description: str
    task: str
    score: ScoreRule
    extra_columns: tuple[str, ...] = ()
    """``scope/metric`` names that the ranking shows as extra columns."""
