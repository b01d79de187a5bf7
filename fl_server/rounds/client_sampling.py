"""Who may be asked this round: the run's sampler, fed with what the sites last reported."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from fl_server.results.records import SiteRecord
from fl_server.rounds.sites import Site
from strategies.sampling import Candidate, Sampler
from tasks.contract import child_seed


class ClientSampling:
    """Choose a round's sites; the same for the same seed, round, sites and losses."""

    def __init__(self, sampler: Sampler, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._losses: dict[str, float] = {}

    def note(self, sites: Iterable[SiteRecord]) -> None:
        """Remember each site's last accepted training loss."""
        for site in sites:
            if site.status == "ok" and site.loss is not None:
                self._losses[site.site] = site.loss

    def names(self, number: int, sites: Sequence[Site]) -> set[str]:
        """Return those of ``sites`` that round ``number`` may ask."""
        if not sites:
            return set()
        candidates = [Candidate(s.name, s.num_train, self._losses.get(s.name)) for s in sites]
        rng = np.random.default_rng(child_seed(self._seed, "sampling", number))
        return set(self._sampler.choose(candidates, rng))


@contextmanager
def seeded_sampling(seed: int) -> Iterator[None]:
    """Seed Python's global generator, which Flower's strategies sample from, and put it back."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
