"""What was spent: epsilon of composed (subsampled) Gaussian mechanisms, by Rényi accounting.

Mironov, "Rényi Differential Privacy", CSF 2017; Mironov, Talwar, Zhang, "Rényi Differential
Privacy of the Sampled Gaussian Mechanism", 2019; conversion to (epsilon, delta) by Balle et al.,
"Hypothesis Testing Interpretations and Rényi Differential Privacy", AISTATS 2020, Theorem 21. The
numbers are opacus'.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError

Release = tuple[float, float, int]
"""(noise multiplier, sampling rate, number of times)."""


def epsilon_of(releases: Sequence[Release], delta: float) -> float:
    """Return the epsilon of all releases together.

    Parameters
    ----------
    releases : sequence of (float, float in (0, 1], int)
        Poisson-sampled Gaussian mechanisms; a rate of 1 is the plain Gaussian.
    delta : float, in (0, 1)

    Returns
    -------
    float
        0 for no release; infinity where one had no noise.
    """
    composed = [release for release in releases if release[2] > 0]
    if not composed:
        return 0.0
    if any(noise <= 0 for noise, _, _ in composed):
        return math.inf
    require_opacus()
    from opacus.accountants import RDPAccountant  # type: ignore[import-untyped]
    from opacus.accountants.analysis.rdp import get_privacy_spent  # type: ignore[import-untyped]

    orders = tuple(RDPAccountant.DEFAULT_ALPHAS)
    divergences = sum(count * _curve(noise, rate, orders) for noise, rate, count in composed)
    with warnings.catch_warnings():
        # opacus: the best order is the smallest or largest tried; the bound holds all the same
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        spent = float(get_privacy_spent(orders=orders, rdp=divergences, delta=delta)[0])
    return max(0.0, spent)  # the conversion goes below 0 where delta alone covers the loss


@lru_cache(maxsize=1024)
def _curve(noise: float, rate: float, orders: tuple[float, ...]) -> NDArray[np.float64]:
    """Return one release's Rényi divergence at each order: half a second, but additive."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=orders))


def require_opacus() -> None:
    """Name the missing extra.

    Raises
    ------
    ConfigError
        If opacus is not installed.
    """
    if find_spec("opacus") is None:
        raise ConfigError("differential privacy needs opacus: pip install 'fedleague[privacy]'")
