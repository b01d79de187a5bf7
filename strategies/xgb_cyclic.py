"""Federated XGBoost in turn, both updates.

Flower's ``FedXgbCyclic`` (its documentation's "Quickstart XGBoost"): one site a round grows trees
on the booster it received and hands the whole of it on::

    B <- B + new trees of site (t mod N) on B

N rounds are one cycle. Leave ``sites.quorum`` at null: a round has one reply.
"""

from __future__ import annotations

from typing import ClassVar

from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from strategies.local import LocalResult, LocalRound
from strategies.requirements import Requirements

__all__ = ["XgbCyclic", "local_update"]


class XgbCyclic(flower.FedXgbCyclic):
    """Server update: visits the sites in the order of their names, also after a resumption.

    Flower's own remembers the order in which it first saw the nodes, which no checkpoint holds.
    """

    client_update: ClassVar[str] = "xgb_cyclic"
    requirements: ClassVar[Requirements] = Requirements(not_saved=("registered_nodes",))

    def _make_sampling(self, grid: Grid, server_round: int, configure_type: str) -> list[int]:
        nodes = list(grid.get_node_ids())
        return [nodes[(server_round - 1) % len(nodes)]] if nodes else []


def local_update(local: LocalRound) -> LocalResult:
    """Grow trees on the booster received; send the whole of it."""
    return LocalResult(local.train(), {})
