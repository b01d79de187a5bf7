"""When a run stops, and by whose rows: pure functions of the rounds so far."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fl_common.errors import ConfigError
from fl_server.config.run_config import EarlyStopping
from fl_server.config.usecase import ScoreRule
from fl_server.results.records import RoundRecord
from fl_server.rounds.early_stopping import can_choose, should_stop
from tasks.scores import ScoreCard

MAX, MIN, ZERO = (ScoreRule("m", direction) for direction in ("max", "min", "zero"))


def rounds(*validation, holdout=None):
    scores = holdout or [0.5] * len(validation)
    return [
        RoundRecord(
            round=number,
            phase="finetune" if number else "baseline",
            status="ok",
            score=score,
            card=ScoreCard(),
            sites=(),
            seconds=0.0,
            bytes_up=0,
            bytes_down=0,
            validation_score=value,
        )
        for number, (value, score) in enumerate(zip(validation, scores, strict=True))
    ]


@pytest.mark.parametrize(
    ("rule", "validation", "stops"),
    [
        (MAX, (0.1, 0.2, 0.3), False),
        (MAX, (0.5,), False),
        (MAX, (0.5, 0.6, 0.6), False),
        (MAX, (0.5, 0.6, 0.6, 0.5), True),
        (MAX, (0.5, 0.6, 0.6, 0.7), False),
        (MIN, (0.5, 0.4, 0.4, 0.5), True),
        (ZERO, (-9.0, 0.1, 0.2, -0.2), True),
        (MAX, (0.5, None, None), True),
        (MAX, (None, 0.1, None), False),
        (MAX, (0.1, 0.3, 0.2), False),
        (MAX, (0.1, 0.3, 0.2, 0.2), True),
        (MAX, (0.3, 0.3, 0.3), True),  # an equal score is no better
        (MIN, (0.1, 0.3, 0.2), True),
        (MIN, (0.3, 0.1, 0.2), False),
        (ZERO, (-9.0, 0.1, -0.2, 5.0), True),
        (ZERO, (-9.0, 0.2, -0.1, 5.0), False),
    ],
)
def test_a_run_stops_once_the_best_validation_score_is_two_rounds_old(rule, validation, stops):
    assert should_stop(rounds(*validation), EarlyStopping(patience=2), rule) is stops


def test_the_holdout_neither_stops_a_run_nor_keeps_it_going():
    better, worse = [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]
    stopping = EarlyStopping(patience=2)
    assert should_stop(rounds(*worse, holdout=better), stopping, MAX)
    assert not should_stop(rounds(*better, holdout=worse), stopping, MAX)
    assert not should_stop(rounds(*[None] * 4, holdout=worse), stopping, MAX)


def test_a_round_without_a_validation_score_is_no_better():
    stopping = EarlyStopping(patience=2)
    assert not should_stop(rounds(None, None, None, 0.1), stopping, MAX)
    assert should_stop(rounds(0.1, None, None), stopping, MAX)


def test_an_improvement_up_to_min_delta_is_none():
    close = rounds(0.5, 0.505, 0.509)
    assert should_stop(close, EarlyStopping(patience=2, min_delta=0.01), MAX)
    assert not should_stop(close, EarlyStopping(patience=2, min_delta=0.001), MAX)
    stopping = EarlyStopping(patience=2, min_delta=0.05)
    assert should_stop(rounds(0.1, 0.12, 0.14), stopping, MAX)
    assert not should_stop(rounds(0.1, 0.12, 0.16), stopping, MAX)


def test_no_patience_means_no_stop():
    assert not should_stop(rounds(0.3, 0.2, 0.1, 0.0), EarlyStopping(), MAX)
    assert not should_stop(rounds(*[0.5] * 9), EarlyStopping(), MAX)
    assert not should_stop([], EarlyStopping(patience=1), MAX)


@dataclass
class Counted:
    num_validation: int


def sites(*counts):
    return [Counted(count) for count in counts]


def test_sites_with_validation_rows_choose_and_others_need_not(compose):
    config = compose("early_stopping.patience=2")
    assert can_choose(sites(3, 0, 0), config)
    assert can_choose(sites(3, 5), config)
    assert not can_choose(sites(0, 0), compose())


def test_patience_without_validation_rows_is_refused_with_the_cure(compose):
    config = compose("early_stopping.patience=2")
    with pytest.raises(ConfigError) as told:
        can_choose(sites(0, 0), config)
    text = str(told.value)
    assert "\n" not in text
    assert "early_stopping.patience" in text
    assert "data.validation_fraction=0.2" in text
    assert "site.yaml" in text


def test_a_masked_sum_needs_as_many_sites_that_choose(compose, caplog):
    config = compose("privacy=secagg", "early_stopping.patience=2")
    assert can_choose(sites(1, 1, 1, 0), config)
    with pytest.raises(ConfigError, match="2 of 3 sites have any"):
        can_choose(sites(1, 1, 0, 0), config)
    assert not can_choose(sites(1, 1, 0, 0), compose("privacy=secagg"))
    assert "a masked sum over validation rows is too small" in caplog.text
