"""FedAdam, FedYogi, FedAdagrad against Algorithm 2 of Reddi et al. (2021)."""

import numpy as np
import pytest
from quadratic_task import assert_iterates, descend, minima, random_sites

from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedyogi import FedYogi

ETA, BETA1, BETA2, TAU = 0.3, 0.9, 0.95, 0.05
SECOND = {
    "adam": lambda v, d: BETA2 * v + (1 - BETA2) * d**2,
    "yogi": lambda v, d: v - (1 - BETA2) * d**2 * np.sign(v - d**2),
    "adagrad": lambda v, d: v + d**2,
}


def _make(kind):
    common = {"eta": ETA, "tau": TAU, **minima()}
    if kind == "adagrad":
        return FedAdagrad(**common)
    return {"adam": FedAdam, "yogi": FedYogi}[kind](beta_1=BETA1, beta_2=BETA2, **common)


def _reference_reddi(kind, sites, rounds):
    beta = 0.0 if kind == "adagrad" else BETA1
    weights, moment, second = np.zeros(4), np.zeros(4), np.full(4, TAU**2)
    iterates, total = [weights], sum(site.rows for site in sites)
    for _ in range(rounds):
        delta = sum(s.rows / total * (descend(s, weights) - weights) for s in sites)
        moment = beta * moment + (1 - beta) * delta
        second = SECOND[kind](second, delta)
        weights = weights + ETA * moment / (np.sqrt(second) + TAU)
        iterates.append(weights)
    return iterates


@pytest.mark.parametrize("kind", SECOND)
def test_every_iterate_is_the_papers(federation, kind):
    sites = random_sites()
    assert_iterates(federation(_make(kind), sites, rounds=10), _reference_reddi(kind, sites, 10))
