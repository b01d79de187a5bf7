"""What FedAdam, FedYogi and FedAdagrad share.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated Optimization",
ICLR 2021 (arXiv:2003.00295), Algorithm 2::

    m <- beta_1 m + (1 - beta_1) d,      d = sum_k (n_k / n) (x_k - x)
    v <- second moment of d,             v_{-1} = tau^2
    x <- x + eta m / (sqrt(v) + tau)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy.fedopt import FedOpt

from strategies.arguments import check_number
from strategies.fedavg import FedAvg
from strategies.wire.records import unpack_arrays


class AdaptiveStep(FedOpt):
    """Goes in front of one of Flower's strategies, with our ``FedAvg`` behind it.

    Parameters
    ----------
    **kwargs
        Of Flower's strategy: ``eta`` > 0, ``tau`` > 0, ``beta_1`` and ``beta_2`` in [0, 1) ...
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("eta", self.eta, above=0)
        check_number("tau", self.tau, above=0)
        check_number("beta_1", self.beta_1, least=0, below=1)
        check_number("beta_2", self.beta_2, least=0, below=1)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Set v_{-1} = tau^2 before the first round, then ask the sampled sites to train.

        The algorithm asks for v_{-1} >= tau^2; Flower's strategies start from 0, where a weight
        whose first pseudo-gradient is tiny is moved by eta d / (|d| + tau) instead of at most
        eta d / (2 tau).
        """
        if self.v_t is None:
            self.v_t = {
                name: np.full_like(array, self.tau**2)
                for name, array in unpack_arrays(arrays).items()
            }
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies, then take the adaptive step."""
        moved, metrics = super().aggregate_train(server_round, replies)
        return cast(FedAvg, self).averaged(moved), metrics
