"""One definition of the round whose model is the result."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fl_server.config.usecase import ScoreRule
from fl_server.results.scoring import final_round


@dataclass(frozen=True)
class Round:
    round: int
    score: float
    validation_score: float | None = None
    status: str = "ok"


def test_without_validation_the_last_good_round_counts_however_it_scored():
    rounds = [Round(0, 0.5), Round(1, 0.9), Round(2, 0.7), Round(3, 0.99, status="failed")]
    assert final_round(rounds, ScoreRule("s")).round == 2


def test_the_baseline_counts_where_no_round_was_good():
    rounds = [Round(0, 0.5), Round(1, 0.5, status="failed"), Round(2, 0.5, status="diverged")]
    assert final_round(rounds, ScoreRule("s")).round == 0


@pytest.mark.parametrize(("direction", "expected"), [("max", 2), ("min", 3), ("zero", 1)])
def test_validation_chooses_in_the_score_s_direction(direction, expected):
    rounds = [Round(0, 0.0, 0.3), Round(1, 0.0, -0.1), Round(2, 0.0, 0.9), Round(3, 1.0, -0.4)]
    assert final_round(rounds, ScoreRule("s", direction)).round == expected


def test_the_earliest_of_equals_and_only_good_rounds_are_chosen():
    rounds = [
        Round(0, 0.1, 0.1),
        Round(1, 0.2, 0.6),
        Round(2, 0.3, 0.6),
        Round(3, 0.3, 0.9, status="failed"),
        Round(4, 0.9),
    ]
    assert final_round(rounds, ScoreRule("s")).round == 1


def test_the_baseline_may_be_the_best():
    assert final_round([Round(0, 0.1, 0.9), Round(1, 0.8, 0.5)], ScoreRule("s")).round == 0
