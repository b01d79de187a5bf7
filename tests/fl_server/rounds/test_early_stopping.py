"""When a run stops early."""

from __future__ import annotations

import pytest

from fl_server.config.run_config import EarlyStopping
from fl_server.config.usecase import ScoreRule
from fl_server.results.records import RoundRecord
from fl_server.rounds.early_stopping import should_stop
from tasks.contract import ScoreCard, Scores

RULE = ScoreRule("f1", "max")


def rounds(*scores):
    return [
        RoundRecord(
            number,
            "finetune",
            "ok",
            score,
            ScoreCard(Scores()),
            (),
            seconds=0.0,
            bytes_up=0,
            bytes_down=0,
            validation_score=score,
        )
        for number, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    ("scores", "direction", "stops"),
    [
        ((0.5,), "max", False),
        ((0.5, 0.6, 0.6), "max", False),
        ((0.5, 0.6, 0.6, 0.5), "max", True),
        ((0.5, 0.6, 0.6, 0.7), "max", False),
        ((0.5, 0.4, 0.4, 0.5), "min", True),
        ((-9.0, 0.1, 0.2, -0.2), "zero", True),
        ((0.5, None, None), "max", True),
        ((None, 0.1, None), "max", False),
    ],
)
def test_run_stops_when_the_best_score_is_two_rounds_old(scores, direction, stops):
    assert (
        should_stop(rounds(*scores), EarlyStopping(patience=2), ScoreRule("f1", direction)) is stops
    )


def test_gain_below_the_least_does_not_count():
    records = rounds(0.5, 0.505, 0.509)
    assert should_stop(records, EarlyStopping(patience=2, min_delta=0.01), RULE)
    assert not should_stop(records, EarlyStopping(patience=2, min_delta=0.001), RULE)


def test_run_without_patience_or_rounds_goes_on():
    assert not should_stop(rounds(*[0.5] * 9), EarlyStopping(), RULE)
    assert not should_stop([], EarlyStopping(patience=1), RULE)
