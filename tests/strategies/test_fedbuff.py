import numpy as np
import pytest
from quadratic_task import assert_iterates, descend, minima, random_sites

from fl_common.errors import ConfigError
from strategies.fedavg import FedAvg
from strategies.fedbuff import FedBuff


def _reference_nguyen(sites, rounds, size, server_lr, order):
    """Algorithm 1: sites reply in ``order``; who replied starts anew from the next model."""
    w, queue = np.zeros(4), [(k, 0, np.zeros(4)) for k in order[0]]
    iterates, ages = [w], []
    for version in range(rounds):
        buffer = np.zeros(4)
        batch, queue = queue[:size], queue[size:]
        for k, started, model in batch:
            ages.append(version - started)
            buffer += (1 + version - started) ** -0.5 * (descend(sites[k], model) - model)
        w = w + server_lr * buffer / size
        iterates.append(w)
        if version + 1 < rounds:
            queue += [(k, version + 1, w) for k in order[version + 1]]
    return iterates, ages


def test_every_iterate_is_the_papers(federation):
    sites = random_sites(7)
    asked = []
    real = FedBuff.configure_train

    class Watched(FedBuff):
        def configure_train(self, *args):
            messages = list(real(self, *args))
            asked.append([message.metadata.dst_node_id - 2 for message in messages])
            return messages

    strategy = Watched(buffer_size=3, server_lr=0.9, **minima())
    history = federation(strategy, sites, rounds=9)
    reference, ages = _reference_nguyen(sites, 9, 3, 0.9, asked)
    assert_iterates(history, reference)
    assert max(ages) == 2
    assert [len(nodes) for nodes in asked] == [7] + [3] * 8


def test_a_full_buffer_of_all_sites_is_the_plain_mean(federation):
    sites = random_sites(4, rows=10)
    ours = federation(FedBuff(buffer_size=4, **minima()), sites, rounds=5)
    plain = federation(FedAvg(**minima()), sites, rounds=5)
    np.testing.assert_allclose(ours.models[-1], plain.models[-1])


def test_a_buffer_larger_than_the_federation_fills_over_rounds(federation):
    history = federation(FedBuff(buffer_size=6, **minima()), random_sites(4), rounds=4)
    pairs = zip(history.models, history.models[1:], strict=False)
    # 4 replies; 2 more fill it and 2 wait; these and 2 new; 2 more fill it.
    assert [not np.array_equal(a, b) for a, b in pairs] == [False, True, False, True]


def test_site_that_still_trains_is_not_asked_again(federation):
    history = federation(FedBuff(buffer_size=2, **minima()), random_sites(5), rounds=2)
    asked = [
        {s.site for s in r.sites if s.phase == "train" and s.bytes_down} for r in history.records
    ]
    replied = [
        {s.site for s in r.sites if s.phase == "train" and s.status == "ok"}
        for r in history.records
    ]
    assert [len(sites) for sites in asked] == [0, 5, 2]
    assert asked[2] == replied[1]
    assert replied[2].isdisjoint(replied[1])


def test_bytes_count_in_the_round_in_which_they_flow(federation):
    history = federation(FedBuff(buffer_size=2, **minima()), random_sites(5), rounds=2)
    for record in history.records[1:]:
        trained = [site for site in record.sites if site.phase == "train"]
        assert sum(site.bytes_up > 0 for site in trained) == 2
        assert {s.status for s in trained if not s.bytes_up} == {"training"}


def test_buffer_size_must_be_positive():
    with pytest.raises(ConfigError, match="buffer_size"):
        FedBuff(buffer_size=0)
