"""FedAdagrad, both halves.

Reddi et al.: "Adaptive Federated Optimization", ICLR 2021 (arXiv:2003.00295), Algorithm 2
(shared lines in ``strategies.adaptive``)::

    v <- v + d^2
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from strategies.adaptive import start_second_moment
from strategies.fedavg import FedAvg, local_update

__all__ = ["FedAdagrad", "local_update"]


class FedAdagrad(flower.FedAdagrad, FedAvg):
    """Flower's FedAdagrad on top of our streaming mean, started as the paper says.

    Arguments as ``flwr.serverapp.strategy.FedAdagrad``.
    """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Start the second moment, then ask the sampled sites to train."""
        start_second_moment(self, arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies, then take the adaptive step."""
        moved, metrics = super().aggregate_train(server_round, replies)
        return self.averaged(moved), metrics
