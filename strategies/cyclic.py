"""Cyclic weight transfer, both updates.

Chang, Balachandar, Lam, Yi, Brown, Beers, Rosen, Rubin, Kalpathy-Cramer: "Distributed deep
learning networks among institutions for medical imaging", JAMIA 25(8), 2018::

    w <- local training of site (t mod N) from w

One round visits one site, in the order of the sites' names; N rounds are one cycle. Leave
``sites.quorum`` at null: a round has one reply.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from strategies.fedavg import FedAvg, local_update
from strategies.requirements import Requirements
from strategies.wire.messages import ROUND

__all__ = ["CyclicWeightTransfer", "local_update"]


class CyclicWeightTransfer(FedAvg):
    """Server update: hands the model to the next site."""

    requirements = Requirements(own_weights=True, in_turn=True)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the one site whose turn it is."""
        nodes = list(grid.get_node_ids())
        if not nodes:
            return []
        config[ROUND] = server_round
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        turn = nodes[(server_round - 1) % len(nodes)]
        return self._construct_messages(content, [turn], MessageType.TRAIN)
