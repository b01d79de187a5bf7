import numpy as np
import pytest
from quadratic_task import Quadratic, assert_iterates, descend, minima, random_sites

from strategies.fedavg import FedAvg
from strategies.qfedavg import QFedAvg
from tasks.contract import TrainConfig

TRAIN = TrainConfig(lr=0.05, local_steps=3)


def _reference_li(sites, rounds, q):
    """Algorithm 2 with L = 1 / lr."""
    w, iterates, lipschitz = np.zeros(4), [np.zeros(4)], 1 / TRAIN.lr
    for _ in range(rounds):
        top, bottom = np.zeros(4), 0.0
        for site in sites:
            loss = site.loss(w) + 1e-10
            change = lipschitz * (w - descend(site, w, TRAIN))
            top += loss**q * change
            bottom += q * loss ** (q - 1) * np.sum(change**2) + lipschitz * loss**q
        w = w - top / bottom
        iterates.append(w)
    return iterates


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_every_iterate_is_the_papers(federation, q):
    sites = random_sites()
    history = federation(QFedAvg(TRAIN.lr, q, **minima()), sites, rounds=8, train=TRAIN)
    assert_iterates(history, _reference_li(sites, 8, q), tolerance=1e-8)


def test_records_the_loss_before_training(federation):
    sites = random_sites()
    history = federation(QFedAvg(TRAIN.lr, 0.5, **minima()), sites, rounds=1, train=TRAIN)
    for record in history.records[1].sites:
        if record.phase == "train":
            site = sites[int(record.site[-2:])]
            assert record.loss == pytest.approx(site.loss(np.zeros(4)))


def test_narrows_the_spread_of_losses(federation):
    """Seven sites agree, one does not: the mean leaves it behind."""
    agree = [Quadratic(np.eye(4), np.full(4, 0.1 * k)) for k in range(7)]
    sites = [*agree, Quadratic(np.eye(4), np.full(4, 3.0))]
    train = TrainConfig(lr=0.1, local_steps=2)
    fair = federation(QFedAvg(train.lr, 3.0, **minima()), sites, rounds=60, train=train)
    plain = federation(FedAvg(**minima()), sites, rounds=60, train=train)

    def losses(history):
        return np.array([site.loss(history.models[-1]) for site in sites])

    assert losses(fair).std() < 0.5 * losses(plain).std()
    assert losses(fair).max() < 0.6 * losses(plain).max()
