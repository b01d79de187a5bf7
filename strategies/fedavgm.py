"""Federated averaging with server momentum, both halves.

Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019 (arXiv:1909.06335), section 4.3::

    v <- beta v + dw,    w <- w - eta v,    dw = sum_k (n_k / n) (w - w_k)
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.fedavg import FedAvg, local_update

__all__ = ["FedAvgM", "local_update"]


class FedAvgM(flower.FedAvgM, FedAvg):
    """Flower's FedAvgM on top of our streaming mean (its ``super()`` is our FedAvg).

    Arguments as ``flwr.serverapp.strategy.FedAvgM``: ``server_learning_rate`` (eta),
    ``server_momentum`` (beta).
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies, then take the momentum step."""
        moved, metrics = super().aggregate_train(server_round, replies)
        return self.averaged(moved), metrics
