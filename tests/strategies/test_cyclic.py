import numpy as np
from quadratic_task import assert_iterates, descend, minima, random_sites

from strategies.cyclic import CyclicWeightTransfer


def test_the_model_visits_the_sites_in_turn(federation):
    sites = random_sites(3)
    history = federation(CyclicWeightTransfer(**minima()), sites, rounds=7)
    weights, iterates = np.zeros(4), [np.zeros(4)]
    for number in range(7):
        weights = descend(sites[number % 3], weights)
        iterates.append(weights)
    assert_iterates(history, iterates)
    visited = [[s.site for s in r.sites if s.phase == "train"] for r in history.records[1:]]
    assert visited == [[f"site_{n % 3:02d}"] for n in range(7)]
