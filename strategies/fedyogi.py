"""FedYogi, both updates.

Reddi et al.: "Adaptive Federated Optimization", ICLR 2021 (arXiv:2003.00295), Algorithm 2
(shared lines in ``strategies.adaptive``)::

    v <- v - (1 - beta_2) d^2 sign(v - d^2)
"""

from __future__ import annotations

from flwr.serverapp import strategy as flower

from strategies.adaptive import AdaptiveStep
from strategies.fedavg import FedAvg, local_update

__all__ = ["FedYogi", "local_update"]


class FedYogi(AdaptiveStep, flower.FedYogi, FedAvg):
    """Flower's FedYogi on top of our streaming mean, started as the paper says.

    Arguments as ``flwr.serverapp.strategy.FedYogi``.
    """
