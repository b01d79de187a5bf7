"""Any stock strategy gives, in our round loop, the weights that Flower alone computes."""

import copy

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import strategy as flower
from quadratic_task import Federation, minima, random_sites, split

from fl_server.config.instantiation import make_strategy
from fl_server.runtimes.simulation import InProcessGrid
from strategies.fedadagrad import FedAdagrad
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedmedian import FedMedian
from strategies.fedprox import FedProx
from strategies.qfedavg import QFedAvg
from strategies.wire.records import pack_arrays, unpack_arrays

STOCK = {
    "FedAvg": {},
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "FedProx": {"proximal_mu": 0.5},
    "FedAdam": {},
    "FedYogi": {},
    "FedAdagrad": {},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 1},
    "MultiKrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "Bulyan": {"num_malicious_nodes": 1},
    "QFedAvg": {"client_learning_rate": 0.05, "q": 0.5, "train_loss_key": "train-loss"},
}
WITHOUT = {"Strategy", "Result", "FedXgbBagging", "FedXgbCyclic"}
"""No weights to compare: an interface, a record, and trees."""
WRAPPERS = {name for name in flower.__all__ if name.startswith("DifferentialPrivacy")}
"""RefusedError at launch (test_requirements.py); privacy/test_central.py shows why."""


def test_every_strategy_that_flower_has_is_covered():
    assert set(flower.__all__) - WITHOUT - WRAPPERS == set(STOCK)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Flower collects garbage after every array that it takes out of a reply."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


@pytest.mark.parametrize("name", STOCK)
def test_same_replies_give_the_same_weights(tmp_path, name):
    target = f"flwr.serverapp.strategy.{name}"
    ours = make_strategy({"_target_": target, **STOCK[name]})
    alone = getattr(flower, name)(**STOCK[name], **minima())
    sites = random_sites(7)
    grid = InProcessGrid([{"name": "x", "data": {"train": s.to_source()}} for s in sites])
    computed, seen = [], {}
    configure, aggregate = ours.configure_train, ours.aggregate_train

    def configure_both(server_round, arrays, config, roster):
        messages = configure(server_round, arrays, config, roster)
        record = pack_arrays(unpack_arrays(arrays))
        alone.configure_train(server_round, record, ConfigRecord(dict(config)), grid)
        return messages

    def aggregate_both(server_round, replies):
        kept = list(replies)
        record, _ = alone.aggregate_train(server_round, copy.deepcopy(kept))
        computed.append(unpack_arrays(record))
        return aggregate(server_round, kept)

    ours.configure_train, ours.aggregate_train = configure_both, aggregate_both
    seen = Federation(tmp_path)(_Bare(ours), sites, rounds=5)
    for number, arrays in enumerate(computed, start=1):
        np.testing.assert_array_equal(seen.models[number], arrays["body"])
    assert len(computed) == 5


class _Bare(flower.Strategy):
    """Passes everything on; keeps the patched methods out of the snapshot."""

    def __init__(self, inner):
        self.inner = inner

    def configure_train(self, *args):
        return self.inner.configure_train(*args)

    def aggregate_train(self, *args):
        return self.inner.aggregate_train(*args)

    def configure_evaluate(self, *args):
        return []

    def aggregate_evaluate(self, *args):
        return None

    def summary(self):
        pass


WRAPPED = [
    (lambda: FedAvg(**minima()), lambda: flower.FedAvg(**minima())),
    (
        lambda: FedAvgM(server_momentum=0.9, **minima()),
        lambda: flower.FedAvgM(server_momentum=0.9, **minima()),
    ),
    (
        lambda: FedProx(proximal_mu=0.3, **minima()),
        lambda: flower.FedProx(proximal_mu=0.3, **minima()),
    ),
    (lambda: FedMedian(**minima()), lambda: flower.FedMedian(**minima())),
    (
        lambda: QFedAvg(0.05, 0.0, **minima()),
        lambda: flower.QFedAvg(0.05, 0.0, "train-loss", **minima()),
    ),
]


@pytest.mark.parametrize(("ours", "stock"), WRAPPED)
def test_ours_is_stock_where_stock_is_the_paper(federation, ours, stock):
    sites = random_sites(6)
    left = federation(ours(), sites, rounds=5)
    right = federation(stock(), sites, rounds=5)
    np.testing.assert_allclose(left.models[-1], right.models[-1], rtol=1e-12)


def test_stock_second_moment_starts_below_the_papers(federation):
    """Why ours differ: Flower starts at v = 0, Algorithm 2 at v >= tau^2."""
    sites = random_sites(6)
    left = federation(FedAdagrad(tau=1.0, **minima()), sites, rounds=1)
    right = federation(flower.FedAdagrad(tau=1.0, **minima()), sites, rounds=1)
    assert np.all(np.abs(left.models[-1]) < np.abs(right.models[-1]))
    assert split(left.models[-1], {"body": 4}).keys() == {"body"}
