"""SCAFFOLD, both updates.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning", ICML 2020 (arXiv:1910.06378), Algorithm 1 with option II::

    site:    y <- y - eta_l (g_i(y) - c_i + c)            K times from y = x
             c_i+ <- c_i - c + (x - y) / (K eta_l)
    server:  x <- x + eta_g mean(y_i - x)
             c <- c + (|S| / N) mean(c_i+ - c_i)

With weights by examples n_S / n takes the place of |S| / N, so that c stays sum_i (n_i / n) c_i.
"""

from __future__ import annotations

from typing import Any, ClassVar

from strategies.arguments import check_number
from strategies.arrays import added, difference, toward, zeros_like
from strategies.fedavg import FedAvg, checked_weighting
from strategies.local import LocalResult, LocalRound
from strategies.requirements import Requirements
from strategies.streaming_mean import RoundMean
from tasks.contract import Arrays, LocalObjective

VARIATE = "scaffold"


class Scaffold(FedAvg):
    """Server update; twice the bytes of FedAvg in both directions.

    Parameters
    ----------
    server_lr : float, > 0
        eta_g.
    weighting : {"examples", "uniform"}
        ``uniform`` is the paper's mean over sites; ``examples`` is the same algorithm for the
        loss over all rows, as every other strategy here.
    """

    client_update: ClassVar[str] = "scaffold"
    requirements = Requirements(plain_sgd=True, tied_to_clients=("variate",))

    def __init__(self, server_lr: float = 1.0, weighting: str = "examples", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server_lr = check_number("server_lr", server_lr, above=0)
        self.weighting = checked_weighting(weighting)
        self.variate: Arrays | None = None

    def extra(self) -> Arrays:
        """Return c, zero before the first round."""
        if self.variate is None:
            self.variate = zeros_like(self.sent)
        return self.variate

    def expected_extra(self) -> Arrays:
        """Each reply carries the change of its c_i."""
        return self.extra()

    def update(self, fold: RoundMean) -> Arrays:
        """Move x and c by the mean changes."""
        self.variate = added(self.extra(), self.participation(fold), fold.extra)
        return toward(self.sent, self.server_lr, fold.mean)


def local_update(local: LocalRound) -> LocalResult:
    """Train with the corrected gradient; keep c_i, send its change."""
    variate = local.extra or zeros_like(local.received)
    own = local.state.get(VARIATE) or zeros_like(local.received)
    correction = difference(variate, own)
    outcome = local.train(LocalObjective(linear=correction))
    steps = max(outcome.num_steps, 1) * local.train_config.lr
    moved = difference(local.received, outcome.arrays)
    # c_i+ - c_i = (x - y) / (K eta_l) - c
    change = difference(added(zeros_like(moved), 1.0 / steps, moved), variate)
    local.state.put(VARIATE, added(own, 1.0, change))
    return LocalResult(outcome, change)
