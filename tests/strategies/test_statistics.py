"""Running statistics of normalisation layers are averaged, whatever step a strategy takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quadratic_task import descend, minima, random_sites

from fl_server.rounds.reply_validation import cast_like
from strategies.arrays import added, statistics
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedbuff import FedBuff
from strategies.fedyogi import FedYogi
from strategies.qfedavg import QFedAvg

MEANS = {"body": 2, "norm.running_mean": 2}
VARIANCES = {"body": 2, "norm.running_var": 2}


class Overshooting(FedAvg):
    """A researcher's strategy that steps far past the mean."""

    def update(self, fold):
        return added(fold.mean, 100.0, fold.mean)


MOVING = {
    "fedavgm": lambda: FedAvgM(server_learning_rate=3.0, server_momentum=0.9, **minima()),
    "fedadam": lambda: FedAdam(eta=0.7, **minima()),
    "fedyogi": lambda: FedYogi(eta=0.7, **minima()),
    "fedadagrad": lambda: FedAdagrad(eta=0.7, **minima()),
    "qfedavg": lambda: QFedAvg(0.05, q=0.0, **minima()),
    "fedbuff": lambda: FedBuff(buffer_size=5, server_lr=3.0, **minima()),
    "custom": lambda: Overshooting(**minima()),
}


@pytest.mark.parametrize("name", MOVING)
def test_statistics_are_the_mean_of_what_the_sites_sent(federation, name):
    sites = random_sites(5, rows=10)
    history = federation(MOVING[name](), sites, rounds=3, parts=MEANS)
    for before, after in zip(history.models, history.models[1:], strict=False):
        mean = np.mean([descend(site, before) for site in sites], axis=0)
        np.testing.assert_allclose(after[2:], mean[2:], rtol=1e-9)
        if name != "qfedavg":  # with q = 0 its step is the mean
            assert not np.allclose(after[:2], mean[:2])


def test_late_replies_of_fedbuff_cannot_make_a_variance_negative(federation):
    sites = [replace(s, optimum=np.abs(s.optimum), rows=10) for s in random_sites(7)]
    start = np.array([0.0, 0.0, 4.0, 4.0])
    strategy = FedBuff(buffer_size=2, server_lr=5.0, **minima())
    history = federation(strategy, sites, rounds=9, parts=VARIANCES, start=start)
    trained = [descend(site, model)[2:] for model in history.models for site in sites]
    for model in history.models[1:]:
        assert (model[2:] >= np.min(trained, axis=0) - 1e-9).all()
        assert (model[2:] <= np.max(trained, axis=0) + 1e-9).all()


def test_statistics_are_found_by_pytorchs_names():
    names = ["bn.running_mean", "bn.running_var", "running_var", "bn.weight", "run.running_means"]
    arrays = {name: np.zeros(1) for name in names}
    assert list(statistics(arrays)) == names[:3]


def test_variance_below_zero_never_becomes_the_model_of_record():
    """Noise, or a stock strategy's step, may go past what a variance can be."""
    model = {"w": np.array([-1.0]), "bn.running_var": np.array([-0.5, 2.0])}
    kept = cast_like(model, {name: np.zeros_like(a) for name, a in model.items()})
    assert kept["w"].tolist() == [-1.0]
    assert kept["bn.running_var"].tolist() == [0.0, 2.0]
