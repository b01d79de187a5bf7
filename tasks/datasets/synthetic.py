"""Synthetic(alpha, beta): thirty users whose models and inputs differ, as much as one likes.

References
----------
Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks",
MLSys 2020 (arXiv:1812.06127), section 5.1 and its authors' generator.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

NUM_USERS, NUM_FEATURES, NUM_CLASSES = 30, 60, 10
MIN_ROWS = 50
SEED = 20260306

Floats = NDArray[np.float64]


def synthetic(alpha: float, beta: float, *, iid: bool = False, seed: int = SEED) -> pd.DataFrame:
    """Return the rows of thirty users.

    User k has 50 rows and lognormal(4, 2) more, rounded down. A row x is N(v_k, Sigma) with
    Sigma diagonal, its j-th entry j^-1.2; its class is argmax(W_k x + b_k). Every entry of W_k and
    b_k is N(u_k, 1), of v_k N(B_k, 1); u_k is N(0, alpha), B_k N(0, beta).

    Parameters
    ----------
    alpha, beta : float, >= 0
        How much the users' models, and their inputs, differ. The paper does not say whether they
        are variances; here, as in its authors' generator, they are standard deviations.
    iid : bool
        One W and one b for all, and v_k = 0.

    Returns
    -------
    pandas.DataFrame, shape (rows, 62)
        ``x_01`` to ``x_60``, ``label`` (``c0`` to ``c9``) and ``user`` (``u00`` to ``u29``). The
        number of rows depends on the seed alone.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(4, 2, NUM_USERS).astype(np.int64) + MIN_ROWS
    spread = np.arange(1, NUM_FEATURES + 1) ** -0.6  # standard deviations
    shared = _model(rng, 0.0)
    parts = []
    for user, size in enumerate(sizes):
        weights, bias = shared if iid else _model(rng, rng.normal(0, alpha))
        centre = 0.0 if iid else rng.normal(rng.normal(0, beta), 1, NUM_FEATURES)
        inputs = centre + rng.normal(size=(size, NUM_FEATURES)) * spread
        labels = (inputs @ weights + bias).argmax(axis=1)
        parts.append(_frame(inputs, labels, user))
    return pd.concat(parts, ignore_index=True)


def synthetic_iid() -> pd.DataFrame:
    """Return ``synthetic`` with one model and one input distribution for all."""
    return synthetic(0.0, 0.0, iid=True)


def synthetic_0_0() -> pd.DataFrame:
    """Return ``synthetic(0, 0)``."""
    return synthetic(0.0, 0.0)


def synthetic_05_05() -> pd.DataFrame:
    """Return ``synthetic(0.5, 0.5)``."""
    return synthetic(0.5, 0.5)


def synthetic_1_1() -> pd.DataFrame:
    """Return ``synthetic(1, 1)``."""
    return synthetic(1.0, 1.0)


def _model(rng: np.random.Generator, mean: float) -> tuple[Floats, Floats]:
    return rng.normal(mean, 1, (NUM_FEATURES, NUM_CLASSES)), rng.normal(mean, 1, NUM_CLASSES)


def _frame(inputs: Floats, labels: NDArray[np.int64], user: int) -> pd.DataFrame:
    columns = [f"x_{j:02d}" for j in range(1, NUM_FEATURES + 1)]
    frame = pd.DataFrame(inputs.round(6), columns=columns)
    names = np.array([f"c{label}" for label in range(NUM_CLASSES)])
    return frame.assign(label=names[labels], user=f"u{user:02d}")
