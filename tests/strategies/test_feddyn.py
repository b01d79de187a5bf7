import numpy as np
import pytest
from quadratic_task import assert_iterates, minima, pooled_optimum, random_sites

from fl_common.errors import ConfigError
from strategies.fedavg import FedAvg
from strategies.feddyn import FedDyn
from tasks.contract import TrainConfig

EXACT = TrainConfig(optimizer="exact")


def _reference_acar(sites, rounds, alpha, shares, asked):
    """Algorithm 1 with exact local minimisers."""
    theta, h, own = np.zeros(4), np.zeros(4), [np.zeros(4) for _ in sites]
    iterates = [theta]
    for number in range(1, rounds + 1):
        sampled = asked(number)
        total = sum(shares[k] for k in sampled)
        mean = np.zeros(4)
        for k in sampled:
            site = sites[k]
            right = site.matrix @ site.optimum + own[k] + alpha * theta
            solved = np.linalg.solve(site.matrix + alpha * np.eye(4), right)
            own[k] = own[k] - alpha * (solved - theta)
            mean += shares[k] / total * solved
        h = h - alpha * total / sum(shares) * (mean - theta)
        theta = mean - h / alpha
        iterates.append(theta)
    return iterates


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_every_iterate_is_the_papers(federation, weighting):
    sites = random_sites()
    shares = [site.rows if weighting == "examples" else 1.0 for site in sites]
    strategy = FedDyn(alpha=0.7, weighting=weighting, **minima())
    history = federation(strategy, sites, rounds=12, train=EXACT)
    assert_iterates(history, _reference_acar(sites, 12, 0.7, shares, lambda _: range(5)))


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_every_iterate_with_sampled_sites_is_the_papers(federation, weighting):
    sites = random_sites()
    shares = [site.rows if weighting == "examples" else 1.0 for site in sites]
    strategy = FedDyn(alpha=2.0, weighting=weighting, fraction_train=0.6, **minima())
    history = federation(strategy, sites, rounds=12, train=EXACT)
    asked = [
        [int(s.site[-2:]) for s in record.sites if s.phase == "train" and s.status == "ok"]
        for record in history.records
    ]
    reference = _reference_acar(sites, 12, 2.0, shares, lambda n: asked[n])
    assert_iterates(history, reference)


def test_beats_fedavg_on_heterogeneous_sites(federation):
    sites, best = random_sites(spread=5.0), pooled_optimum(random_sites(spread=5.0))
    strategy = FedDyn(alpha=1.0, weighting="examples", **minima())
    ours = federation(strategy, sites, rounds=60, train=EXACT).models[-1]
    plain = federation(FedAvg(**minima()), sites, rounds=60, train=EXACT).models[-1]
    assert np.linalg.norm(plain - best) > 0.1
    assert np.linalg.norm(ours - best) < 1e-3 * np.linalg.norm(plain - best)


def test_alpha_must_be_positive():
    with pytest.raises(ConfigError, match=r"strategy\.alpha"):
        FedDyn(alpha=0.0)
