"""The config group ``privacy``: one class per ``conf/privacy/*.yaml``, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fl_common.errors import ConfigError


@dataclass(frozen=True)
class NoPrivacy:
    """The server sees every site's update, and no noise is added."""


@dataclass(frozen=True)
class CentralFixed:
    """Clip each site's update to a fixed norm and add Gaussian noise to the sum.

    Parameters
    ----------
    noise_multiplier : float, >= 0
        z: standard deviation of the noise in units of the clipping norm; 0 only clips.
    clipping_norm : float, > 0
        C: largest l2 norm of a site's update.
    delta : float, in (0, 1)
    noise_seed : int or None
        None draws from the operating system. A number repeats an experiment and voids the
        guarantee, since whoever knows it can take the noise off.
    """

    noise_multiplier: float = 1.0
    clipping_norm: float = 1.0
    delta: float = 1e-5
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier, self.delta, self.noise_seed)
        _number("clipping_norm", self.clipping_norm, above=0.0)


@dataclass(frozen=True)
class CentralAdaptive:
    """Clip to a quantile of the sites' update norms, followed with a noised count.

    Parameters
    ----------
    noise_multiplier, delta, noise_seed
        As in ``CentralFixed``; the noise multiplier covers updates and counts together.
    initial_clipping_norm : float, > 0
    target_quantile : float, in [0, 1]
        gamma: share of the updates that should be below the clipping norm.
    clip_lr : float, > 0
        eta_C.
    count_stddev : float or None
        sigma_b: noise of the count; above z / 2. None: the larger of m / 20 (the paper's) and z.
    """

    noise_multiplier: float = 1.0
    initial_clipping_norm: float = 0.1
    target_quantile: float = 0.5
    clip_lr: float = 0.2
    count_stddev: float | None = None
    delta: float = 1e-5
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier, self.delta, self.noise_seed)
        _number("initial_clipping_norm", self.initial_clipping_norm, above=0.0)
        _number("clip_lr", self.clip_lr, above=0.0)
        if not 0 <= _number("target_quantile", self.target_quantile) <= 1:
            raise ConfigError(f"privacy.target_quantile is {self.target_quantile}; from 0 to 1")
        if self.count_stddev is not None:
            least = self.noise_multiplier / 2
            if _number("count_stddev", self.count_stddev) <= least and self.noise_multiplier:
                raise ConfigError(
                    f"privacy.count_stddev is {self.count_stddev}; it must be above half of "
                    f"privacy.noise_multiplier ({least:g}), or no noise is left for the updates"
                )


@dataclass(frozen=True)
class LocalDpSgd:
    """Per-example clipping and noise at the sites, before anything leaves.

    Parameters
    ----------
    noise_multiplier : float, >= 0
        Standard deviation of the noise on a batch's summed gradients, in units of the norm.
    max_grad_norm : float, > 0
        Largest l2 norm of one row's gradient.
    delta : float, in (0, 1)
    """

    noise_multiplier: float = 1.0
    max_grad_norm: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        _check_noise(self.noise_multiplier, self.delta, None)
        _number("max_grad_norm", self.max_grad_norm, above=0.0)


@dataclass(frozen=True)
class SecureAggregation:
    """The server learns sums over sites, of weights and of metric summands, and nothing else.

    Parameters
    ----------
    min_sites : int, >= 3
        Fewest sites whose sum is taken.
    threshold : float, in (0.5, 1]
        Share of a site's group that must stay until the end for the masks to come off.
    num_neighbours : int or None
        With how many others each site shares masks; None: with all. A sum over hundreds of
        sites needs no more than about 30 (Bell et al. 2020).
    """

    min_sites: int = 3
    threshold: float = 0.66
    num_neighbours: int | None = None

    def __post_init__(self) -> None:
        if type(self.min_sites) is not int or self.min_sites < 3:
            raise ConfigError(f"privacy.min_sites is {self.min_sites!r}; at least 3")
        if not 0.5 < _number("threshold", self.threshold) <= 1:
            raise ConfigError(f"privacy.threshold is {self.threshold}; above 0.5, at most 1")
        neighbours = self.num_neighbours
        if neighbours is not None and (type(neighbours) is not int or neighbours < 2):
            raise ConfigError(f"privacy.num_neighbours is {neighbours!r}; at least 2, or null")
        if neighbours is not None and neighbours + 1 < self.min_sites:
            raise ConfigError(
                f"privacy.num_neighbours is {neighbours}; at least {self.min_sites - 1}, since "
                f"privacy.min_sites is {self.min_sites}"
            )


Privacy = NoPrivacy | CentralFixed | CentralAdaptive | LocalDpSgd | SecureAggregation


def _check_noise(noise_multiplier: Any, delta: Any, noise_seed: Any) -> None:
    if _number("noise_multiplier", noise_multiplier) < 0:
        raise ConfigError(f"privacy.noise_multiplier is {noise_multiplier}; at least 0")
    if not 0 < _number("delta", delta) < 1:
        raise ConfigError(f"privacy.delta is {delta}; between 0 and 1, below 1 / number of rows")
    if noise_seed is not None and (type(noise_seed) is not int or noise_seed < 0):
        raise ConfigError(f"privacy.noise_seed is {noise_seed!r}; a whole number, or null")


def _number(key: str, value: Any, above: float = -math.inf) -> float:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not value > above:
        bound = "" if above == -math.inf else f" above {above:g}"
        raise ConfigError(f"privacy.{key} is {value!r}; expected a number{bound}")
    return float(value)
