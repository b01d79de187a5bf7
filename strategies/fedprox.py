"""FedProx, both updates.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous Networks",
MLSys 2020 (arXiv:1812.06127), eq. 2::

    w_k <- argmin_w  F_k(w) + (mu / 2) ||w - w_t||^2

The paper samples sites by size and averages them evenly; here, as in Flower, sites are weighted
by size. The paper's own scheme is ``sampling=by_size strategy.weighting=uniform``.
"""

from __future__ import annotations

from typing import Any

from flwr.serverapp import strategy as flower

from strategies.arguments import check_number
from strategies.fedavg import FedAvg, checked_weighting, local_update

__all__ = ["FedProx", "local_update"]


class FedProx(flower.FedProx, FedAvg):
    """Flower's FedProx on top of our streaming mean.

    Parameters
    ----------
    proximal_mu : float, >= 0
        mu; 0 is FedAvg.
    weighting : {"examples", "uniform"}
    """

    def __init__(
        self, proximal_mu: float = 0.1, weighting: str = "examples", **kwargs: Any
    ) -> None:
        super().__init__(proximal_mu=check_number("proximal_mu", proximal_mu, least=0), **kwargs)
        self.weighting = checked_weighting(weighting)
