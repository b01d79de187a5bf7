"""FedAdagrad, both updates.

Reddi et al.: "Adaptive Federated Optimization", ICLR 2021 (arXiv:2003.00295), Algorithm 2
(shared lines in ``strategies.adaptive``)::

    v <- v + d^2
"""

from __future__ import annotations

from flwr.serverapp import strategy as flower

from strategies.adaptive import AdaptiveStep
from strategies.fedavg import FedAvg, local_update

__all__ = ["FedAdagrad", "local_update"]


class FedAdagrad(AdaptiveStep, flower.FedAdagrad, FedAvg):
    """Flower's FedAdagrad on top of our streaming mean, started as the paper says.

    Arguments as ``flwr.serverapp.strategy.FedAdagrad``.
    """
