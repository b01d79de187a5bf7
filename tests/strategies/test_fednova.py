from dataclasses import replace

import numpy as np
import pytest
from quadratic_task import assert_iterates, descend, minima, pooled_optimum, random_sites

from strategies.fedavg import FedAvg
from strategies.fednova import FedNova, gradient_weight
from tasks.contract import TrainConfig

STEPS = (1, 4, 9, 16, 3)


def _sites(seed=0, spread=1.0):
    sites = random_sites(seed=seed, spread=spread)
    return [replace(site, steps=steps) for site, steps in zip(sites, STEPS, strict=True)]


def _norm(steps, momentum):
    """|a|_1 from the definition: a_j = sum over later steps of momentum ** distance."""
    return sum(sum(momentum**i for i in range(steps - j)) for j in range(steps))


def _reference_wang(sites, rounds, config):
    """Eq. 8: x <- x - tau_eff sum_k p_k d_k, d_k = (x - x_k) / |a_k|."""
    x, iterates, total = np.zeros(4), [np.zeros(4)], sum(s.rows for s in sites)
    norms = [_norm(site.steps, config.momentum) for site in sites]
    shares = [site.rows / total for site in sites]
    effective = sum(p * a for p, a in zip(shares, norms, strict=True))
    for _ in range(rounds):
        directions = [
            (x - descend(s, x, config, steps=s.steps)) / a
            for s, a in zip(sites, norms, strict=True)
        ]
        x = x - effective * sum(p * d for p, d in zip(shares, directions, strict=True))
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_every_iterate_is_the_papers(federation, momentum):
    config = TrainConfig(lr=0.02, momentum=momentum, local_steps=1)
    sites = _sites()
    history = federation(FedNova(momentum=momentum, **minima()), sites, rounds=8, train=config)
    assert_iterates(history, _reference_wang(sites, 8, config))


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_weight_is_the_sum_of_its_definition(steps, momentum):
    assert gradient_weight(steps, momentum) == pytest.approx(_norm(steps, momentum))


def test_removes_the_objective_inconsistency_of_fedavg(federation):
    sites, config = _sites(spread=5.0), TrainConfig(lr=0.01, local_steps=1)
    best = pooled_optimum(sites)
    ours = federation(FedNova(**minima()), sites, rounds=60, train=config).models[-1]
    plain = federation(FedAvg(**minima()), sites, rounds=60, train=config).models[-1]
    assert np.linalg.norm(ours - best) < 0.5 * np.linalg.norm(plain - best)
