"""Whom a round may ask."""

from __future__ import annotations

import random

from fl_server.results.records import SiteRecord
from fl_server.rounds.client_sampling import ClientSampling, seeded_sampling
from strategies.sampling import Uniform
from tests.fl_server.rounds.fake_grid import site

SITES = [site(f"s{index}", index) for index in range(10)]


class Recording:
    def __init__(self):
        self.seen = []

    def choose(self, candidates, rng):
        self.seen = list(candidates)
        return [candidates[0].name]


def test_choice_is_fixed_by_seed_and_round():
    def chosen(seed, number):
        return ClientSampling(Uniform(fraction=0.3), seed).names(number, SITES)

    assert chosen(1, 1) == chosen(1, 1)
    assert len(chosen(1, 1)) == 3
    assert len({tuple(sorted(chosen(1, number))) for number in range(8)}) > 1
    assert len({tuple(sorted(chosen(seed, 1))) for seed in range(8)}) > 1


def test_sampler_knows_each_sites_last_accepted_loss():
    sampler = Recording()
    sampling = ClientSampling(sampler, 0)
    sampling.note([SiteRecord("s0", "train", "ok", loss=2.0)])
    sampling.note(
        [
            SiteRecord("s0", "train", "ok", loss=1.0),
            SiteRecord("s1", "train", "refused", loss=5.0),
            SiteRecord("s2", "evaluate", "ok"),
        ]
    )
    assert sampling.names(1, SITES[:3]) == {"s0"}
    assert [candidate.loss for candidate in sampler.seen] == [1.0, None, None]
    assert [candidate.name for candidate in sampler.seen] == ["s0", "s1", "s2"]


def test_nobody_is_chosen_of_nobody():
    assert ClientSampling(Recording(), 0).names(1, []) == set()


def test_global_generator_is_seeded_and_put_back():
    random.seed(5)
    expected = [random.random() for _ in range(2)]
    random.seed(5)
    first = random.random()
    with seeded_sampling(1):
        inside = random.random()
    with seeded_sampling(1):
        assert random.random() == inside
    assert [first, random.random()] == expected
