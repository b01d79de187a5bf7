"""Federated averaging with server momentum, both updates.

Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019 (arXiv:1909.06335), section 4.3::

    v <- beta v + dw,    w <- w - eta v,    dw = sum_k (n_k / n) (w - w_k)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.arguments import check_number
from strategies.fedavg import FedAvg, local_update

__all__ = ["FedAvgM", "local_update"]


class FedAvgM(flower.FedAvgM, FedAvg):
    """Flower's FedAvgM on top of our streaming mean (its ``super()`` is our FedAvg).

    Arguments as ``flwr.serverapp.strategy.FedAvgM``: ``server_learning_rate`` (eta > 0),
    ``server_momentum`` (beta, in [0, 1)).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_number("server_learning_rate", self.server_learning_rate, above=0)
        check_number("server_momentum", self.server_momentum, least=0, below=1)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies, then take the momentum step."""
        moved, metrics = super().aggregate_train(server_round, replies)
        return self.averaged(moved), metrics
