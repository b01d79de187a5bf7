import numpy as np
import pytest
from quadratic_task import assert_iterates, minima, random_sites

from fl_common.errors import ConfigError
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from tasks.contract import TrainConfig

EXACT = TrainConfig(optimizer="exact")


def _reference_li(sites, rounds, mu, shares):
    """Algorithm 2 with exact solves: w_k = argmin F_k(w) + mu/2 ||w - w_t||^2."""
    weights, iterates = np.zeros(4), [np.zeros(4)]
    for _ in range(rounds):
        solved = [
            np.linalg.solve(s.matrix + mu * np.eye(4), s.matrix @ s.optimum + mu * weights)
            for s in sites
        ]
        weights = sum(share * w for share, w in zip(shares, solved, strict=True))
        iterates.append(weights)
    return iterates


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_every_iterate_with_exact_solves_is_the_papers(federation, weighting):
    sites = random_sites()
    rows = np.array([site.rows for site in sites]) if weighting == "examples" else np.ones(5)
    strategy = FedProx(proximal_mu=0.8, weighting=weighting, **minima())
    history = federation(strategy, sites, rounds=8, train=EXACT)
    assert_iterates(history, _reference_li(sites, 8, 0.8, rows / rows.sum()))


def test_the_term_keeps_sites_near(federation):
    sites = random_sites(spread=5.0)
    near = federation(FedProx(proximal_mu=50.0, **minima()), sites, rounds=1, train=EXACT)
    far = federation(FedAvg(**minima()), sites, rounds=1, train=EXACT)
    assert np.linalg.norm(near.models[1]) < 0.2 * np.linalg.norm(far.models[1])


def test_unknown_weighting_is_refused():
    with pytest.raises(ConfigError, match="examples or uniform"):
        FedProx(weighting="sizes")
