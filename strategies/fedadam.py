"""FedAdam, both updates.

Reddi et al.: "Adaptive Federated Optimization", ICLR 2021 (arXiv:2003.00295), Algorithm 2
(shared lines in ``strategies.adaptive``)::

    v <- beta_2 v + (1 - beta_2) d^2
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.adaptive import AdaptiveStep
from strategies.fedavg import FedAvg, local_update
from strategies.wire.records import pack_arrays

__all__ = ["FedAdam", "local_update"]


class FedAdam(AdaptiveStep, flower.FedAdam, FedAvg):
    """Flower's FedAdam on top of our streaming mean, with the paper's server step.

    Arguments as ``flwr.serverapp.strategy.FedAdam``. Flower multiplies eta by
    sqrt(1 - beta_2^(t+1)) / (1 - beta_1^(t+1)), t from 1: a bias correction that Algorithm 2 does
    not have, and one round ahead of Kingma and Ba's. Here eta is eta.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies, then take the adaptive step."""
        mean, metrics = FedAvg.aggregate_train(self, server_round, replies)
        if mean is None or self.v_t is None:
            return None, metrics
        delta, moment, _ = self._compute_deltat_and_mt(mean)
        self.v_t = {
            name: self.beta_2 * v + (1 - self.beta_2) * np.square(delta[name])
            for name, v in self.v_t.items()
        }
        moved = {
            name: array + self.eta * moment[name] / (np.sqrt(self.v_t[name]) + self.tau)
            for name, array in self.sent.items()
        }
        return self.averaged(pack_arrays(moved)), metrics
