"""Which round's model is a run's result: the one definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from fl_server.config.usecase import ScoreRule


class Judged(Protocol):
    """A round, as recorded or as stored."""

    @property
    def round(self) -> int:
        """0 is the baseline."""

    @property
    def status(self) -> str:
        """Not ``ok``: the round left no model of its own."""

    @property
    def validation_score(self) -> float | None:
        """The score on the validation rows; ``None`` where the run has none."""


AnyRound = TypeVar("AnyRound", bound=Judged)


def final_round(rounds: Sequence[AnyRound], rule: ScoreRule) -> AnyRound:
    """Return the round whose model is the run's result.

    The good round with the best score on the validation rows, the earliest of equals; without
    validation rows the last good round. The held-out rows choose nothing: a score that was the
    best of many on the rows that it is measured on is too good. The baseline is a round too.

    Parameters
    ----------
    rounds : sequence of rounds, not empty
        In order, from the baseline on.
    rule : ScoreRule
        Which validation score is better.
    """
    good = [record for record in rounds if record.status == "ok"] or [rounds[0]]
    judged = [record for record in good if record.validation_score is not None]
    if not judged:
        return good[-1]
    return min(judged, key=lambda record: rule.sort_key(record.validation_score))
