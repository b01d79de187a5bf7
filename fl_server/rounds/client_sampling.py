"""Who may be asked this round: the run's sampler, fed with what the sites last reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fl_server.results.records import RoundRecord
from fl_server.rounds.sites import Site
from strategies.sampling import Candidate, Sampler
from tasks.contract import child_seed


class ClientSampling:
    """Choose a round's sites; the same for the same seed, round, sites and losses."""

    def __init__(self, sampler: Sampler, seed: int) -> None:
        self._sampler = sampler
        self._seed = seed
        self._losses: dict[str, float] = {}

    def note(self, records: Iterable[RoundRecord]) -> None:
        """Remember each site's last accepted training loss."""
        for record in records:
            for site in record.sites:
                if site.status == "ok" and site.loss is not None:
                    self._losses[site.site] = site.loss

    def names(self, number: int, members: Sequence[Site]) -> set[str]:
        """Return the sites that round ``number`` may ask."""
        if not members:
            return set()
        sites = [Candidate(m.name, m.num_train, self._losses.get(m.name)) for m in members]
        rng = np.random.default_rng(child_seed(self._seed, "sampling", number))
        return set(self._sampler.choose(sites, rng))
