"""Ditto: a personal model beside the global one, both updates.

Li, Hu, Beirami, Smith: "Ditto: Fair and Robust Federated Learning Through Personalization", ICML
2021 (arXiv:2012.04221), Algorithm 1::

    global:    w <- FedAvg
    personal:  v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w_t))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from strategies.arguments import check_number
from strategies.fedavg import FedAvg
from strategies.local import LocalResult, LocalRound, Scalar
from strategies.site_state import SiteState
from tasks.contract import Arrays, LocalObjective

LAMBDA, OWN = "ditto-lambda", "ditto"


class Ditto(FedAvg):
    """Server update: FedAvg; no more bytes than it, twice its local training.

    Parameters
    ----------
    lam : float, >= 0
        lambda; 0 trains alone, a large one stays at the global model.
    """

    client_update: ClassVar[str] = "ditto"

    def __init__(self, lam: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lam = check_number("lam", lam, least=0)

    def round_config(self) -> Mapping[str, Scalar]:
        """Tell the sites lambda."""
        return {LAMBDA: self.lam}


def local_update(local: LocalRound) -> LocalResult:
    """Train the global model for the server, then the personal one for the site."""
    outcome = local.train()
    local.model.load(personalise(local.received, local.state))
    objective = LocalObjective(proximal_mu=local.number(LAMBDA, 0.1), anchor=local.received)
    local.state.put(OWN, local.train(objective).arrays)
    return LocalResult(outcome, {})


def personalise(arrays: Arrays, state: SiteState) -> Arrays:
    """Return the site's own model; the received one before it trained."""
    return state.get(OWN) or arrays
