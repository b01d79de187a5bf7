"""A strategy's own numbers: in the record, the checkpoint, result.json and on the page."""

import json
import warnings

import pytest

from fl_common.errors import ConfigError
from fl_server.leaderboard.store import Store
from fl_server.leaderboard.web import create_app
from fl_server.results.checkpoint import read_checkpoint
from fl_server.runtimes.launch import launch
from strategies.fedavg import FedAvg
from strategies.requirements import round_metrics

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient


class Counts(FedAvg):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rounds = 0

    def update(self, fold):
        self.rounds += 1
        return fold.mean

    def round_metrics(self):
        return {"rounds_so_far": self.rounds, "replies": 3.0}


class Breaks(FedAvg):
    def round_metrics(self):
        return {"broken": float("nan")}


class Wraps(FedAvg):
    def __init__(self, strategy):
        super().__init__()
        self.strategy = strategy


@pytest.fixture
def target(monkeypatch):
    return f"strategy._target_={__name__}."


def test_they_are_recorded_kept_and_shown(compose, tmp_path, target):
    url = f"sqlite:///{tmp_path / 'board.sqlite'}"
    config = compose(target + "Counts", f"board.url={url}", "rounds=2")
    outcome = launch(config)
    expected = [{}, {"rounds_so_far": 1.0, "replies": 3.0}, {"rounds_so_far": 2.0, "replies": 3.0}]
    assert [record.strategy_metrics for record in outcome.rounds] == expected
    kept = read_checkpoint(config.folder).rounds
    assert [record.strategy_metrics for record in kept] == expected
    result = json.loads((config.folder / "result.json").read_text())
    assert [record["strategy_metrics"] for record in result["rounds"]] == expected
    with Store(url) as store:
        run = store.leaderboard(config.usecase.slug).results[0].id
        stored = store.rounds(run)[-1].metrics
        found = {m.name: m.value for m in stored if m.scope == "strategy"}
        assert found == {"rounds_so_far": 2.0, "replies": 3.0}
        with TestClient(create_app(store)) as client:
            page = client.get(f"/runs/{run}").text
    assert "rounds_so_far" in page
    assert "Strategy&#39;s own" in page or "Strategy's own" in page


def test_what_is_no_finite_number_fails_the_round(compose, target):
    outcome = launch(compose(target + "Breaks", "rounds=1"))
    assert outcome.rounds[-1].status == "failed"
    assert "round_metrics of Breaks: 'broken' is nan; return finite" in outcome.rounds[-1].reason


@pytest.mark.parametrize("value", ["text", True, None, float("inf"), [1.0]])
def test_only_finite_numbers(value):
    strategy = FedAvg()
    strategy.round_metrics = lambda: {"x": value}
    with pytest.raises(ConfigError, match="round_metrics of FedAvg: 'x' is"):
        round_metrics(strategy)


def test_wrapped_strategies_have_their_say():
    assert round_metrics(Wraps(Counts())) == {"rounds_so_far": 0.0, "replies": 3.0}
    assert round_metrics(FedAvg()) == {}
