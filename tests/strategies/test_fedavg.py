import numpy as np
from quadratic_task import assert_iterates, descend, minima, pooled_optimum, random_sites

from strategies.fedavg import FedAvg


def _reference_mcmahan(sites, rounds):
    """Algorithm 1: w <- sum_k n_k / n w_k."""
    weights, iterates = np.zeros(4), [np.zeros(4)]
    total = sum(site.rows for site in sites)
    for _ in range(rounds):
        weights = sum(site.rows / total * descend(site, weights) for site in sites)
        iterates.append(weights)
    return iterates


def test_every_iterate_is_the_papers(federation):
    sites = random_sites()
    history = federation(FedAvg(**minima()), sites, rounds=8)
    assert_iterates(history, _reference_mcmahan(sites, 8))


def test_one_local_step_converges_to_the_pooled_optimum(federation):
    from tasks.contract import TrainConfig

    sites = random_sites()
    train = TrainConfig(lr=0.3, local_steps=1)
    history = federation(FedAvg(**minima()), sites, rounds=60, train=train)
    np.testing.assert_allclose(history.models[-1], pooled_optimum(sites), atol=1e-4)


def test_one_site_is_bit_exact(federation):
    site = random_sites(1, rows=8)[0]  # a power of two: exact in float64
    history = federation(FedAvg(**minima()), [site], rounds=3)
    weights = np.zeros(4)
    for model in history.models[1:]:
        weights = descend(site, weights)
        np.testing.assert_array_equal(model, weights)


def test_fraction_samples_sites(federation):
    history = federation(FedAvg(fraction_train=0.4, **minima()), random_sites(), rounds=4)
    for record in history.records[1:]:
        asked = [s for s in record.sites if s.phase == "train"]
        assert len(asked) == 2
