"""FedLC: logits calibrated by each site's own class counts, both updates.

Zhang, Li, Li, Zhou, Wu, Liu, Wu: "Federated Learning with Label Distribution Skew via Logits
Calibration", ICML 2022 (arXiv:2209.00189), eq. 6::

    loss(x, y) = -log  exp(f_y - tau n_y^(-1/4)) / sum_c exp(f_c - tau n_c^(-1/4))

A class that a site lacks (n_c = 0, clipped to 1e-8) drops out of the sum, so its local training
does not unlearn it. Chosen over MOON (Li, He, Song, CVPR 2021) on merit: label skew is the
heterogeneity that our partitions and use cases have, the method fits any classifier (MOON needs a
representation layer, so no linear model), costs no extra pass and no memory (MOON: two more
forward passes and the site's previous model), and has one constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from strategies.arguments import check_number
from strategies.fedavg import FedAvg
from strategies.local import LocalResult, LocalRound, Scalar
from strategies.requirements import Requirements
from tasks.contract import LocalObjective

TAU = "fedlc-tau"


class FedLC(FedAvg):
    """Server update: FedAvg.

    Parameters
    ----------
    tau : float, >= 0
        Strength of the calibration; 0 is FedAvg.
    """

    client_update: ClassVar[str] = "fedlc"
    requirements = Requirements(calibration=True)

    def __init__(self, tau: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tau = check_number("tau", tau, least=0)

    def round_config(self) -> Mapping[str, Scalar]:
        """Tell the sites tau."""
        return {TAU: self.tau}


def local_update(local: LocalRound) -> LocalResult:
    """Train on calibrated logits; the class counts stay at the site."""
    return LocalResult(local.train(LocalObjective(calibration=local.number(TAU, 1.0))), {})
