import numpy as np
from quadratic_task import assert_iterates, descend, minima, random_sites

from strategies.fedavgm import FedAvgM


def _reference_hsu(sites, rounds, beta, eta):
    """Section 4.3: v <- beta v + dw; w <- w - eta v."""
    weights, velocity, iterates = np.zeros(4), np.zeros(4), [np.zeros(4)]
    total = sum(site.rows for site in sites)
    for _ in range(rounds):
        delta = sum(s.rows / total * (weights - descend(s, weights)) for s in sites)
        velocity = beta * velocity + delta
        weights = weights - eta * velocity
        iterates.append(weights)
    return iterates


def test_every_iterate_is_the_papers(federation):
    sites = random_sites()
    strategy = FedAvgM(server_learning_rate=0.7, server_momentum=0.6, **minima())
    assert_iterates(federation(strategy, sites, rounds=8), _reference_hsu(sites, 8, 0.6, 0.7))
