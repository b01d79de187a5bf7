from dataclasses import replace

import numpy as np
import pytest
from quadratic_task import (
    GRADIENT_DESCENT,
    assert_iterates,
    descend,
    minima,
    pooled_optimum,
    random_sites,
)

from fl_common.errors import ConfigError
from strategies.fedavg import FedAvg
from strategies.feddyn import FedDyn
from strategies.requirements import check_training
from strategies.scaffold import Scaffold
from strategies.wire.messages import EXTRA, METRICS
from tasks.contract import TrainConfig


def _reference_karimireddy(sites, rounds, server_lr, shares, asked):
    """Algorithm 1, option II; ``asked(round)`` gives the indices of S."""
    config = GRADIENT_DESCENT
    x, c, own = np.zeros(4), np.zeros(4), [np.zeros(4) for _ in sites]
    iterates = [x]
    for number in range(1, rounds + 1):
        sampled = asked(number)
        total = sum(shares[k] for k in sampled)
        dx = dc = 0.0
        for k in sampled:
            y = descend(sites[k], x, linear=c - own[k])
            new = own[k] - c + (x - y) / (config.local_steps * config.lr)
            dx = dx + shares[k] / total * (y - x)
            dc = dc + shares[k] / total * (new - own[k])
            own[k] = new
        x = x + server_lr * dx
        c = c + total / sum(shares) * dc
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_every_iterate_is_the_papers(federation, weighting):
    sites = random_sites()
    shares = [site.rows if weighting == "examples" else 1.0 for site in sites]
    strategy = Scaffold(server_lr=0.8, weighting=weighting, **minima())
    reference = _reference_karimireddy(sites, 10, 0.8, shares, lambda _: range(5))
    assert_iterates(federation(strategy, sites, rounds=10), reference)


@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_every_iterate_with_sampled_sites_is_the_papers(federation, weighting):
    sites = random_sites()
    shares = [site.rows if weighting == "examples" else 1.0 for site in sites]
    strategy = Scaffold(weighting=weighting, fraction_train=0.6, **minima())
    history = federation(strategy, sites, rounds=10)
    asked = [
        [int(s.site[-2:]) for s in record.sites if s.phase == "train" and s.status == "ok"]
        for record in history.records
    ]
    assert {len(indices) for indices in asked[1:]} == {3}
    reference = _reference_karimireddy(sites, 10, 1.0, shares, lambda n: asked[n])
    assert_iterates(history, reference)


@pytest.mark.parametrize(
    ("strategy", "options"), [(Scaffold, {}), (FedDyn, {"train": TrainConfig(optimizer="exact")})]
)
@pytest.mark.parametrize("weighting", ["uniform", "examples"])
def test_sampled_sites_of_very_different_sizes_lead_to_the_optimum_of_the_weights(
    federation, strategy, options, weighting
):
    """The control variate must stay the *weighted* mean of the sites' own."""
    sites = [replace(s, rows=200 if k == 0 else 10) for k, s in enumerate(random_sites())]
    weights = [site.rows if weighting == "examples" else 1.0 for site in sites]
    more = {"alpha": 2.0} if strategy is FedDyn else {}
    rule = strategy(weighting=weighting, fraction_train=0.4, **more, **minima())
    last = federation(rule, sites, rounds=120, **options).models[-1]
    np.testing.assert_allclose(last, pooled_optimum(sites, weights), atol=1e-2)
    other = pooled_optimum(sites, [1.0] * 5 if weighting == "examples" else None)
    assert np.linalg.norm(last - other) > 0.5


def test_beats_fedavg_on_heterogeneous_sites(federation):
    sites = random_sites(spread=5.0)
    train = TrainConfig(lr=0.05, local_steps=20)
    best = pooled_optimum(sites)
    ours = federation(Scaffold(**minima()), sites, rounds=40, train=train).models[-1]
    plain = federation(FedAvg(**minima()), sites, rounds=40, train=train).models[-1]
    assert np.linalg.norm(plain - best) > 0.1
    assert np.linalg.norm(ours - best) < 1e-3 * np.linalg.norm(plain - best)


def test_reply_without_a_variate_is_refused_and_named(federation):
    from fl_server.runtimes.simulation import InProcessGrid

    class Forgets(InProcessGrid):
        def _deliver(self, message):
            reply = super()._deliver(message)
            if message.metadata.message_type == "train" and reply.metadata.src_node_id == 3:
                assert reply.content[METRICS]["num-steps"] == GRADIENT_DESCENT.local_steps
                del reply.content[EXTRA]
            return reply

    sites = random_sites(3)
    _, config, _ = federation.loop(Scaffold(**minima()), sites)
    history = federation(Scaffold(**minima()), sites, rounds=1, grid=Forgets(config.site_data))
    statuses = {s.site: s.status for s in history.records[1].sites if s.phase == "train"}
    assert statuses == {"site_00": "ok", "site_01": "refused", "site_02": "ok"}


def test_other_optimisers_are_refused_at_launch():
    for train in (TrainConfig(optimizer="adam"), TrainConfig(momentum=0.9)):
        with pytest.raises(ConfigError, match="Scaffold holds for SGD"):
            check_training(Scaffold(), object(), train)
