"""What FedAdam, FedYogi and FedAdagrad share.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated Optimization",
ICLR 2021 (arXiv:2003.00295), Algorithm 2::

    m <- beta_1 m + (1 - beta_1) d,      d = sum_k (n_k / n) (x_k - x)
    v <- second moment of d,             v_{-1} = tau^2
    x <- x + eta m / (sqrt(v) + tau)
"""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy.fedopt import FedOpt

from strategies.messages import unpack_arrays


def start_second_moment(strategy: FedOpt, arrays: ArrayRecord) -> None:
    """Set v_{-1} = tau^2 before the first round; Flower's halves start from 0.

    The algorithm asks for v_{-1} >= tau^2: from 0, a weight whose first pseudo-gradient is tiny
    is moved by eta d / (|d| + tau) instead of at most eta d / (2 tau).
    """
    if strategy.v_t is None:
        strategy.v_t = {
            name: np.full_like(array, strategy.tau**2)
            for name, array in unpack_arrays(arrays).items()
        }
