"""FedBN: normalisation layers stay at the site, both updates.

Li, Jiang, Zhang, Kamp, Dou: "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021 (arXiv:2102.07623), Algorithm 1::

    w[l] <- sum_k (n_k / n) w_k[l]    for every layer l that is no normalisation
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from strategies.fedavg import FedAvg
from strategies.local import Scalar
from strategies.personal import LAYERS, personalise, train_keeping_layers
from strategies.requirements import Requirements

__all__ = ["FedBN", "local_update", "personalise"]

local_update = train_keeping_layers


class FedBN(FedAvg):
    """Server update: FedAvg; the normalisation layers of its model keep their initial values.

    Parameters
    ----------
    layers : str
        What stays local (``strategies.personal.select_layers``).
    """

    client_update: ClassVar[str] = "fedbn"

    def __init__(self, layers: str = "kind:norm", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layers = layers
        self.requirements = Requirements(local_layers=layers)

    def round_config(self) -> Mapping[str, Scalar]:
        """Tell the sites which layers to keep."""
        return {LAYERS: self.layers}
