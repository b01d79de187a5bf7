"""FedBuff: buffered rounds with staleness weights, both updates.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022 (arXiv:2106.06639), Algorithm 1::

    buffer <- buffer + s(t - t_k) (w_k - w_{t_k}),     s(a) = (1 + a)^(-1/2)
    when it holds K updates:  w <- w + eta_g buffer / K;  t <- t + 1;  empty it

A round of the loop is one step: it ends with the K-th reply, whichever sites these come from. Who
has not replied goes on training on its old model, is not asked anything meanwhile, and counts with
the weight of its age in the round in which its reply comes. Its held-out rows are missing from the
scores until then; the last round waits for every site.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from strategies.arguments import check_number, check_whole
from strategies.arrays import added, difference, statistics, zeros_like
from strategies.fedavg import FedAvg, local_update
from strategies.requirements import Requirements
from strategies.streaming_mean import number
from strategies.wire.messages import ARRAYS, LOSS, METRICS, ROUND
from strategies.wire.records import pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays

__all__ = ["FedBuff", "local_update"]


class FedBuff(FedAvg):
    """Server update; holds one model for each version that a site still trains on.

    Parameters
    ----------
    buffer_size : int, >= 1
        K.
    server_lr : float, > 0
        eta_g.
    staleness_exponent : float, >= 0
        0.5 is the paper's; 0 ignores age.
    """

    requirements = Requirements(single_updates=True, asynchronous=True, not_saved=("started",))

    def __init__(
        self,
        buffer_size: int = 3,
        server_lr: float = 1.0,
        staleness_exponent: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.buffer_size = check_whole("buffer_size", buffer_size, least=1)
        self.server_lr = check_number("server_lr", server_lr, above=0)
        self.staleness_exponent = check_number("staleness_exponent", staleness_exponent, least=0)
        self.version = 0
        self.buffered = 0
        self.buffer: Arrays | None = None
        self.buffer_weight = 0.0
        self.started: dict[int, tuple[int, Arrays]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sites that are not training."""
        self.sent_record = arrays
        free = list(grid.get_node_ids())
        count = max(int(len(free) * self.fraction_train), min(len(free), 1))
        nodes = random.sample(free, count)
        config[ROUND] = server_round
        connected = set(getattr(grid, "connected", free))
        self.started = {node: s for node, s in self.started.items() if node in connected}
        self.started |= dict.fromkeys(nodes, (self.version, self.sent))
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return self._construct_messages(content, nodes, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fill the buffer with the next replies; step when it is full."""
        losses = []
        for reply in replies:
            if reply.has_error():
                continue
            losses.append(self._fold(reply))
            if self.buffered >= self.buffer_size:
                break
        if not losses:
            return None, None
        return pack_arrays(self._step()), MetricRecord({LOSS: float(np.mean(losses))})

    def _fold(self, reply: Message) -> float:
        """Add a reply to the buffer; of running statistics the buffer holds values, not changes."""
        version, model = self.started.pop(reply.metadata.src_node_id)
        trained = unpack_arrays(record_of(reply.content, ARRAYS, ArrayRecord))
        update = difference(trained, model) | statistics(trained)
        weight = (1.0 + self.version - version) ** -self.staleness_exponent
        self.buffer = added(self.buffer or zeros_like(update), weight, update)
        self.buffer_weight += weight
        self.buffered += 1
        return number(record_of(reply.content, METRICS, MetricRecord), LOSS, 0.0)

    def _step(self) -> Arrays:
        """Return the new model; the old one while the buffer is not full."""
        sent = self.sent
        if self.buffered < self.buffer_size or self.buffer is None:
            return sent
        moved = added(sent, self.server_lr / self.buffered, self.buffer)
        means = {n: a / self.buffer_weight for n, a in statistics(self.buffer).items()}
        self.buffer, self.buffered, self.buffer_weight = None, 0, 0.0
        self.version += 1
        return moved | means
