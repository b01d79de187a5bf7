"""FedDyn, both updates.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: "Federated Learning Based on Dynamic
Regularization", ICLR 2021 (arXiv:2111.04263), Algorithm 1::

    site:    theta_k <- argmin  L_k(theta) - <g_k, theta> + (alpha / 2) ||theta - theta_t||^2
             g_k <- g_k - alpha (theta_k - theta_t)
    server:  h <- h - alpha (|P| / m) mean(theta_k - theta_t)
             theta <- mean(theta_k) - h / alpha

With weights by examples n_P / n takes the place of |P| / m.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from strategies.arguments import check_number
from strategies.arrays import added, difference, zeros_like
from strategies.fedavg import FedAvg, checked_weighting
from strategies.local import LocalResult, LocalRound, Scalar
from strategies.requirements import Requirements
from strategies.streaming_mean import RoundMean
from tasks.contract import Arrays, LocalObjective

ALPHA, GRADIENT = "feddyn-alpha", "feddyn"


class FedDyn(FedAvg):
    """Server update; no more bytes than FedAvg.

    Parameters
    ----------
    alpha : float, > 0
    weighting : {"examples", "uniform"}
        ``uniform`` is the paper's.
    """

    client_update: ClassVar[str] = "feddyn"
    requirements = Requirements(tied_to_clients=("correction",))

    def __init__(self, alpha: float = 0.1, weighting: str = "uniform", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = check_number("alpha", alpha, above=0)
        self.weighting = checked_weighting(weighting)
        self.correction: Arrays | None = None

    def round_config(self) -> Mapping[str, Scalar]:
        """Tell the sites alpha."""
        return {ALPHA: self.alpha}

    def update(self, fold: RoundMean) -> Arrays:
        """Update h, then correct the mean by it."""
        sent = self.sent
        before = self.correction if self.correction is not None else zeros_like(sent)
        self.correction = added(
            before, -self.alpha * self.participation(fold), difference(fold.mean, sent)
        )
        return added(fold.mean, -1.0 / self.alpha, self.correction)


def local_update(local: LocalRound) -> LocalResult:
    """Train on the dynamically regularised loss; keep its gradient at the site."""
    alpha = local.number(ALPHA, 0.1)
    gradient = local.state.get(GRADIENT) or zeros_like(local.received)
    linear = added(zeros_like(gradient), -1.0, gradient)
    objective = LocalObjective(proximal_mu=alpha, anchor=local.received, linear=linear)
    outcome = local.train(objective)
    moved = difference(outcome.arrays, local.received)
    local.state.put(GRADIENT, added(gradient, -alpha, moved))
    return LocalResult(outcome, {})
