"""FedPer: a shared base and a personal head, both updates.

Arivazhagan, Aggarwal, Singh, Choudhary: "Federated Learning with Personalization Layers", 2019
(arXiv:1912.00818), Algorithms 1 and 2::

    (W_B, W_P_k) <- SGD on site k from (W_B, W_P_k),    W_B <- sum_k (n_k / n) W_B_k
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from strategies.fedavg import FedAvg
from strategies.local import Scalar
from strategies.personal import LAYERS, personalise, train_keeping_layers
from strategies.requirements import Requirements

__all__ = ["FedPer", "local_update", "personalise"]

local_update = train_keeping_layers


class FedPer(FedAvg):
    """Server update: FedAvg over the base; the head of its model keeps its initial values.

    Parameters
    ----------
    layers : str
        What stays local (``strategies.personal.select_layers``).
    """

    client_update: ClassVar[str] = "fedper"

    def __init__(self, layers: str = "kind:head", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = layers
        self.requirements = Requirements(local_layers=layers)

    def round_config(self) -> Mapping[str, Scalar]:
        """Tell the sites which layers to keep."""
        return {LAYERS: self.layers}
