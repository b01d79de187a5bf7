"""Which sites a round may ask: a seam of its own, in front of every strategy.

The round loop shows a strategy only the chosen sites. The same seed, round and sites give the same
choice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from fl_common.errors import ConfigError
from fl_common.words import suggest


@dataclass(frozen=True)
class Candidate:
    """A connected site.

    Parameters
    ----------
    num_train : int
        Training rows that it declared.
    loss : float or None
        The training loss of its last accepted reply; None before that.
    """

    name: str
    num_train: int
    loss: float | None = None


class Sampler(Protocol):
    """A rule that chooses sites."""

    def choose(self, sites: Sequence[Candidate], rng: np.random.Generator) -> list[str]:
        """Return the names of at least one of ``sites`` (sorted by name, not empty)."""


@dataclass(frozen=True)
class Uniform:
    """Every site with the same probability.

    McMahan et al., AISTATS 2017, Algorithm 1: m = max(C K, 1) of K sites.

    Parameters
    ----------
    fraction : float, in (0, 1]
        C.
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)

    def choose(self, sites: Sequence[Candidate], rng: np.random.Generator) -> list[str]:
        """Draw without replacement."""
        return _named(sites, rng.choice(len(sites), _count(self.fraction, sites), replace=False))


@dataclass(frozen=True)
class BySize:
    """Sites in proportion to their training rows, without replacement.

    Li et al., MLSys 2020 (FedProx), Algorithm 2: p_k = n_k / n. There sites are drawn and then
    averaged evenly (``strategy.weighting=uniform``).
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)

    def choose(self, sites: Sequence[Candidate], rng: np.random.Generator) -> list[str]:
        """Draw one after the other, each time in proportion to the rows left."""
        return _named(sites, _by_size(sites, _count(self.fraction, sites), rng))


@dataclass(frozen=True)
class Stratified:
    """The same share of every group; uniform within a group.

    Parameters
    ----------
    groups : mapping of str to sequence of str, or None
        Group to names of sites; sites in no group form one more. None or empty: strata of similar
        size.
    num_strata : int
        How many strata of training rows, where no groups are declared.
    """

    fraction: float = 1.0
    groups: Mapping[str, Sequence[str]] | None = None
    num_strata: int = 3

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)
        if self.num_strata < 1:
            raise ConfigError(f"sampling.num_strata must be at least 1, got {self.num_strata}")
        if not isinstance(self.groups or {}, Mapping) or not all(map(_is_names, self._members())):
            raise ConfigError(
                "sampling.groups must be null or group to sites' names, as "
                f"{{north:[a,b],south:[c]}}, got {self.groups!r}"
            )
        names = [name for members in self._members() for name in members]
        if len(names) != len(set(names)):
            raise ConfigError("sampling.groups: a site belongs to two groups")

    def check_names(self, known: Collection[str]) -> None:
        """Refuse groups with a site that does not exist: its group would lack it unseen.

        Raises
        ------
        ConfigError
            Naming it, with the near match.
        """
        for name in (name for members in self._members() for name in members):
            if name not in known:
                hint = suggest(name, known)
                raise ConfigError(f"sampling.groups: there is no site '{name}'{hint}")

    def choose(self, sites: Sequence[Candidate], rng: np.random.Generator) -> list[str]:
        """Share the places by largest remainder, at least one a group while there are enough."""
        strata = self._strata(sites)
        places = _shares([len(stratum) for stratum in strata], _count(self.fraction, sites))
        chosen: list[str] = []
        for stratum, count in zip(strata, places, strict=True):
            chosen += _named(stratum, rng.choice(len(stratum), count, replace=False))
        return sorted(chosen)

    def _members(self) -> list[Sequence[str]]:
        return list((self.groups or {}).values())

    def _strata(self, sites: Sequence[Candidate]) -> list[list[Candidate]]:
        if self.groups:
            group_of = {name: g for g, names in self.groups.items() for name in names}
            keys = sorted({group_of.get(site.name, "") for site in sites})
            return [[s for s in sites if group_of.get(s.name, "") == key] for key in keys]
        ordered = sorted(sites, key=lambda site: (site.num_train, site.name))
        parts = np.array_split(np.arange(len(ordered)), min(self.num_strata, len(ordered)))
        return [[ordered[index] for index in part] for part in parts]


@dataclass(frozen=True)
class PowerOfChoice:
    """The sites with the largest last known loss among d drawn by size.

    Cho, Wang, Joshi: "Client Selection in Federated Learning: Convergence Analysis and
    Power-of-Choice Selection Strategies", 2020 (arXiv:2010.01243), the variant rpow-d: it uses
    the loss of a site's last reply (no further exchange), and infinity before its first.

    Parameters
    ----------
    num_candidates : int or None
        d; at least the number to choose. None: all sites.
    """

    needs_losses: ClassVar[bool] = True
    fraction: float = 0.5
    num_candidates: int | None = None

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)

    def choose(self, sites: Sequence[Candidate], rng: np.random.Generator) -> list[str]:
        """Draw d candidates, keep the worst off; ties in the order of drawing."""
        count = _count(self.fraction, sites)
        size = min(max(self.num_candidates or len(sites), count), len(sites))
        drawn = [sites[index] for index in _by_size(sites, size, rng)]
        drawn.sort(key=lambda site: -(math.inf if site.loss is None else site.loss))
        return sorted(site.name for site in drawn[:count])


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ConfigError(f"sampling.fraction must be above 0 and at most 1, got {fraction}")


def fraction_of(sampler: Sampler) -> float:
    """Return which part of the sites a rule chooses; 1 where it is none of these."""
    ours = Uniform | BySize | Stratified | PowerOfChoice
    return sampler.fraction if isinstance(sampler, ours) else 1.0


def num_chosen(fraction: float, num_sites: int) -> int:
    """Return how many sites that is: rounded down, at least one."""
    return max(int(fraction * num_sites + 1e-9), 1)


def _is_names(members: object) -> bool:
    return isinstance(members, list | tuple) and all(isinstance(name, str) for name in members)


def _count(fraction: float, sites: Sequence[Candidate]) -> int:
    return num_chosen(fraction, len(sites))


def _named(sites: Sequence[Candidate], indices: Sequence[int] | np.ndarray) -> list[str]:
    return sorted(sites[int(index)].name for index in indices)


def _by_size(sites: Sequence[Candidate], count: int, rng: np.random.Generator) -> list[int]:
    rows = np.array([max(site.num_train, 1) for site in sites], dtype=np.float64)
    drawn = rng.choice(len(sites), count, replace=False, p=rows / rows.sum())
    return [int(index) for index in drawn]


def _shares(sizes: Sequence[int], places: int) -> list[int]:
    """Split ``places`` over groups in proportion to their sizes (largest remainder)."""
    exact = np.array(sizes) * places / sum(sizes)
    shares = np.floor(exact).astype(int)
    if places >= len(sizes):
        shares = np.maximum(shares, 1)
    while shares.sum() > places:
        over = np.where(shares > 1, shares - exact, -np.inf)
        shares[int(np.argmax(over))] -= 1
    while shares.sum() < places:
        under = np.where(shares < np.array(sizes), exact - shares, -np.inf)
        shares[int(np.argmax(under))] += 1
    return [int(share) for share in shares]
