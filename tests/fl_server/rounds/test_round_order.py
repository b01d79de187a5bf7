"""The loop on an exchange that is none of ours: it needs nothing but the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from fl_common.errors import QuorumError
from fl_server.config.run_config import EarlyStopping
from fl_server.config.usecase import ScoreRule
from fl_server.results.checkpoint import read_checkpoint
from fl_server.results.records import SiteRecord
from fl_server.rounds.exchange import EvaluateOutcome, TrainOutcome
from fl_server.rounds.loop import RoundLoop
from strategies.fedavg import FedAvg
from tasks.scores import ScoreCard, Scores
from tasks.stats import Stats


@dataclass
class CountingExchange:
    """Trains and folds by itself: each round adds 1; round 2 fails."""

    asked: list = field(default_factory=list)
    dies_at: int | None = None

    def train(self, number, arrays):
        self.asked.append(("train", number, float(arrays["w"][0])))
        site = SiteRecord("a", "train", "ok", bytes_up=3, bytes_down=5)
        if number == 2:
            return TrainOutcome(None, "failed", "too late", None, (site,))
        return TrainOutcome({"w": arrays["w"] + 1}, loss=0.5, sites=(site,))

    def evaluate(self, number, arrays, split="holdout"):
        self.asked.append((split, number, float(arrays["w"][0])))
        if number == self.dies_at:
            raise QuorumError("gone")
        site = SiteRecord("a", "evaluate", "ok", bytes_up=1, bytes_down=1)
        return EvaluateOutcome(Stats({"sum": arrays["w"]}), (site,))


class Task:
    def finalise(self, stats, fitted):
        return ScoreCard(Scores(values={"sum": float(stats["sum"][0])}))


class Memory:
    strategy = FedAvg()
    epsilon = 1.5

    def __init__(self):
        self.resumed = None

    def client_state(self):
        return {}

    def resume(self, checkpoint):
        self.resumed = checkpoint


@pytest.fixture
def run(tmp_path):
    """Return a function: run the loop; what was asked, the outcome, the memory."""

    def go(exchange, *, rounds=3, resumed=None):
        config = SimpleNamespace(
            rounds=rounds,
            early_stopping=EarlyStopping(),
            usecase=SimpleNamespace(score=ScoreRule("sum", "max")),
            folder=tmp_path,
        )
        state, memory, seen = SimpleNamespace(fitted={}, run="name"), Memory(), []
        watch = SimpleNamespace(round_finished=lambda record: seen.append(record.round))
        loop = RoundLoop(config, Task(), state, memory, exchange)
        outcome = loop.run({"w": np.zeros(1)}, [watch], "mine", resumed)
        assert (
            seen == [record.round for record in outcome.rounds][len(outcome.rounds) - len(seen) :]
        )
        return outcome, memory

    return go


def test_each_round_trains_the_last_good_model_and_evaluates_what_came_of_it(run):
    exchange = CountingExchange()
    outcome, _ = run(exchange)
    assert exchange.asked == [
        ("holdout", 0, 0.0),
        ("train", 1, 0.0),
        ("holdout", 1, 1.0),
        ("train", 2, 1.0),
        ("holdout", 2, 1.0),
        ("train", 3, 1.0),
        ("holdout", 3, 2.0),
    ]
    assert float(outcome.arrays["w"][0]) == 2.0
    assert [record.score for record in outcome.rounds] == [0.0, 1.0, 1.0, 2.0]


def test_record_says_what_the_exchange_said(run):
    baseline, first, second, _ = run(CountingExchange())[0].rounds
    assert (baseline.phase, baseline.bytes_up, len(baseline.sites)) == ("baseline", 1, 1)
    assert (first.phase, first.status, first.train_loss, first.epsilon) == (
        "finetune",
        "ok",
        0.5,
        1.5,
    )
    assert (first.bytes_up, first.bytes_down) == (4, 6)
    assert (second.status, second.reason) == ("failed", "too late")


def test_run_goes_on_after_its_last_finished_round(run, tmp_path):
    with pytest.raises(QuorumError):
        run(CountingExchange(dies_at=1))
    saved = read_checkpoint(tmp_path)
    assert [record.round for record in saved.rounds] == [0]
    exchange = CountingExchange()
    outcome, memory = run(exchange, resumed=saved)
    assert memory.resumed is saved
    assert exchange.asked[0] == ("train", 1, 0.0)
    assert len(outcome.rounds) == 4
