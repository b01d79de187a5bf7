"""What goes from round to round beside the model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fl_server.results.checkpoint import Checkpoint
from fl_server.results.records import RoundRecord, SiteRecord
from fl_server.rounds.federation import Federation
from fl_server.rounds.run_memory import RunMemory
from strategies.fedavg import FedAvg
from strategies.scaffold import Scaffold
from strategies.snapshot import snapshot
from tasks.scores import ScoreCard, Scores
from tests.fl_server.rounds.fake_grid import FakeGrid, registry_of, site


class KeepingGrid(FakeGrid):
    """Keeps its sites' memory, as a simulation does."""

    def __init__(self):
        super().__init__({2: None, 3: None})
        self.memory, self.committed = {"2::c": np.ones(2)}, []

    def client_state(self):
        return self.memory

    def restore(self, memory):
        self.memory = memory

    def commit(self, nodes):
        self.committed.append(set(nodes))


def memory_of(strategy=None, grid=None, forgetful=()):
    started = []
    admission = SimpleNamespace(
        registry=registry_of(site("a", 2), site("b", 3)), forgetful=lambda past: list(forgetful)
    )
    state = SimpleNamespace(start_anew=lambda: started.append(True))
    config = SimpleNamespace(seed=0)
    federation = Federation(grid or FakeGrid({2: None, 3: None}), config, admission, state)
    return RunMemory(federation, strategy or FedAvg()), started


def trained(name, status="ok", **more):
    return SiteRecord(name, "train", status, **more)


def checkpoint(strategy, *records):
    arrays, numbers = snapshot(strategy)
    rounds = tuple(
        RoundRecord(number, "finetune", "ok", None, ScoreCard(Scores()), sites, 0.0, 0, 0)
        for number, sites in enumerate(records, start=1)
    )
    return Checkpoint(
        fingerprint="",
        fitted={},
        rounds=rounds,
        model={},
        strategy_arrays=arrays,
        strategy_numbers=numbers,
        site_memory={"3::c": np.zeros(1)},
    )


def test_epsilon_is_the_most_that_a_site_spent():
    memory, _ = memory_of()
    assert memory.epsilon is None
    memory.note(1, [trained("a", epsilon=1.0), trained("b", epsilon=3.0)], succeeded=True)
    memory.note(2, [trained("b", "absent"), trained("a", epsilon=2.0)], succeeded=True)
    assert memory.epsilon == 3.0


def test_strategy_that_accounts_itself_says_the_epsilon():
    strategy = FedAvg()
    strategy.epsilon = 0.5
    memory, _ = memory_of(strategy)
    memory.note(1, [trained("a", epsilon=9.0)], succeeded=True)
    assert memory.epsilon == 0.5


def test_only_what_sites_learned_for_the_model_is_kept():
    grid = KeepingGrid()
    memory, _ = memory_of(grid=grid)
    memory.note(1, [trained("a"), trained("b", "refused")], succeeded=True)
    memory.note(2, [trained("a"), trained("b")], succeeded=False)
    assert grid.committed == [{2}, set()]
    assert set(memory.client_state()) == {"2::c"}
    assert memory_of()[0].client_state() == {}


def test_resumed_run_knows_what_the_first_one_knew():
    grid = KeepingGrid()
    memory, _ = memory_of(grid=grid)
    sites = (trained("a", epsilon=4.0, loss=0.25), trained("b", "refused"))
    memory.resume(checkpoint(FedAvg(), sites))
    assert memory.epsilon == 4.0
    assert set(grid.memory) == {"3::c"}
    assert memory.sampling._losses == {"a": 0.25}


@pytest.mark.parametrize("forgetful", [(), ("b",)])
def test_strategy_tied_to_sites_that_forgot_starts_anew(forgetful, caplog):
    strategy = Scaffold()
    strategy.variate = {"w": np.ones(2)}
    saved = checkpoint(strategy)
    memory, started = memory_of(strategy, forgetful=forgetful)
    memory.resume(saved)
    assert bool(started) is bool(forgetful)
    assert ("start anew" in caplog.text) is bool(forgetful)
    assert bool(strategy.variate) is not bool(forgetful)
