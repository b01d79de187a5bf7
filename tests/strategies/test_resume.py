"""A killed run resumes to the identical model, whatever the strategy remembers on both sides."""

import numpy as np
import pytest
from quadratic_task import minima, pooled_optimum, random_sites

from fl_server.results.checkpoint import read_checkpoint
from fl_server.runtimes.simulation import InProcessGrid
from strategies.bulyan import Bulyan
from strategies.cyclic import CyclicWeightTransfer
from strategies.ditto import Ditto
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedbuff import FedBuff
from strategies.feddyn import FedDyn
from strategies.fedmedian import FedMedian
from strategies.fednova import FedNova
from strategies.fedper import FedPer
from strategies.fedprox import FedProx
from strategies.fedyogi import FedYogi
from strategies.krum import Krum, MultiKrum
from strategies.qfedavg import QFedAvg
from strategies.scaffold import Scaffold
from strategies.snapshot import forget_tied_to_clients
from strategies.trimmed_mean import TrimmedMean
from strategies.wire.messages import ARRAYS
from strategies.wire.records import pack_arrays
from tasks.contract import TrainConfig

SHELF = {
    "fedavg": lambda: FedAvg(**minima()),
    "fedavgm": lambda: FedAvgM(server_momentum=0.9, **minima()),
    "fedprox": lambda: FedProx(**minima()),
    "fedadam": lambda: FedAdam(**minima()),
    "fedyogi": lambda: FedYogi(**minima()),
    "fedadagrad": lambda: FedAdagrad(**minima()),
    "scaffold": lambda: Scaffold(fraction_train=0.6, **minima()),
    "fednova": lambda: FedNova(**minima()),
    "feddyn": lambda: FedDyn(fraction_train=0.6, **minima()),
    "fedper": lambda: FedPer(**minima()),
    "ditto": lambda: Ditto(**minima()),
    "qfedavg": lambda: QFedAvg(0.05, **minima()),
    "fedmedian": lambda: FedMedian(**minima()),
    "trimmed_mean": lambda: TrimmedMean(**minima()),
    "krum": lambda: Krum(**minima()),
    "multikrum": lambda: MultiKrum(**minima()),
    "bulyan": lambda: Bulyan(**minima()),
    "fedbuff": lambda: FedBuff(buffer_size=5, **minima()),
    "cyclic": lambda: CyclicWeightTransfer(**minima()),
}
PARTS = {"body": 3, "head": 1}


@pytest.mark.parametrize("name", SHELF)
def test_resumed_run_is_the_whole_run(federation, tmp_path, name):
    sites = random_sites()
    whole = federation(SHELF[name](), sites, rounds=6, parts=PARTS)
    folder = tmp_path / "killed"
    federation(SHELF[name](), sites, rounds=3, parts=PARTS, folder=folder)
    resumed = federation(
        SHELF[name](), sites, rounds=6, parts=PARTS, folder=folder, resumed=read_checkpoint(folder)
    )
    np.testing.assert_array_equal(resumed.models[-1], whole.models[-1])
    assert resumed.scores == whole.scores


@pytest.mark.parametrize(("name", "attribute"), [("scaffold", "variate"), ("feddyn", "correction")])
def test_server_state_is_in_the_checkpoint(federation, tmp_path, name, attribute):
    strategy = SHELF[name]()
    federation(strategy, random_sites(), rounds=2, folder=tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run")
    np.testing.assert_array_equal(
        saved.strategy_arrays[f"{attribute}::dict::body"], getattr(strategy, attribute)["body"]
    )
    assert not any("sent_record" in key for key in saved.strategy_arrays)
    assert {key.split("::")[1] for key in saved.site_memory} == {name}


def test_state_that_mirrors_lost_memories_is_dropped(federation):
    strategy = SHELF["scaffold"]()
    federation(strategy, random_sites(), rounds=2)
    assert forget_tied_to_clients(strategy) == ["variate"]
    assert strategy.variate is None
    assert forget_tied_to_clients(SHELF["fedavg"]()) == []


def test_failed_round_leaves_no_trace(federation, monkeypatch):
    """Round 2 breaks after the state was changed; round 3 goes on from round 1."""
    sites = random_sites()
    real = Scaffold.update
    rounds = iter(range(1, 9))

    def breaks(self, fold):
        new = real(self, fold)
        if next(rounds) == 2:
            raise ZeroDivisionError("my bug")
        return new

    monkeypatch.setattr(Scaffold, "update", breaks)
    strategy = Scaffold(**minima())
    history = federation(strategy, sites, rounds=2, may_fail=True)
    failed = history.records[2]
    assert failed.status == "failed"
    assert "ZeroDivisionError: my bug" in failed.reason
    assert "test_resume.py:" in failed.reason
    np.testing.assert_array_equal(history.models[2], history.models[1])
    first = Scaffold(**minima())
    monkeypatch.setattr(Scaffold, "update", real)
    federation(first, sites, rounds=1)
    np.testing.assert_array_equal(strategy.variate["body"], first.variate["body"])


class Unlucky(InProcessGrid):
    """One site's reply of round 2 is not finite, after the site has changed its memory."""

    def _deliver(self, message):
        reply = super()._deliver(message)
        config = message.content["config"]
        asked = (message.metadata.message_type, config["server-round"])
        if asked == ("train", 2) and reply.metadata.src_node_id == 3:
            reply.content[ARRAYS] = pack_arrays({"body": np.full(4, np.inf)})
        return reply


PAIRED = {
    "scaffold": (lambda: Scaffold(**minima()), {}),
    "feddyn": (
        lambda: FedDyn(alpha=1.0, weighting="examples", **minima()),
        {"train": TrainConfig(optimizer="exact")},
    ),
}


@pytest.mark.parametrize("name", PAIRED)
def test_refused_reply_leaves_both_halves_in_step(federation, name):
    make, options = PAIRED[name]
    sites = random_sites()
    _, config, _ = federation.loop(make(), sites)
    grid = Unlucky(config.site_data)
    history = federation(make(), sites, rounds=70, grid=grid, **options)
    refused = [s.site for s in history.records[2].sites if s.status == "refused"]
    assert refused == ["site_01"]
    np.testing.assert_allclose(history.models[-1], pooled_optimum(sites), atol=1e-2)


@pytest.mark.parametrize("name", PAIRED)
def test_failed_round_leaves_both_halves_in_step(federation, name, monkeypatch):
    make, options = PAIRED[name]
    strategy = type(make())
    real, rounds = strategy.update, iter(range(1, 999))

    def breaks(self, fold):
        return real(self, fold) if next(rounds) != 3 else 1 / 0

    monkeypatch.setattr(strategy, "update", breaks)
    sites = random_sites()
    history = federation(make(), sites, rounds=70, may_fail=True, **options)
    assert [r.round for r in history.records if r.status != "ok"] == [3]
    np.testing.assert_allclose(history.models[-1], pooled_optimum(sites), atol=1e-2)
