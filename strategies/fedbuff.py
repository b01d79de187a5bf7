"""FedBuff: buffered rounds with staleness weights, both halves.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022 (arXiv:2106.06639), Algorithm 1::

    buffer <- buffer + s(t - t_k) (w_k - w_{t_k}),     s(a) = (1 + a)^(-1/2)
    when it holds K updates:  w <- w + eta_g buffer / K;  t <- t + 1;  empty it

One round of the loop waits for K replies, not for all. Who has not replied keeps training on its
old model, is not asked again meanwhile, and is folded into a later round with the weight of its
age. What is left of true asynchrony: replies are read exchange by exchange, oldest first, so a
site that is slow in an old round is waited for before newer replies are looked at; and the
evaluation after each update asks every site, busy or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from strategies.fedavg import FedAvg, local_update
from strategies.folding import number
from strategies.messages import ARRAYS, LOSS, METRICS, ROUND, pack_arrays, record_of, unpack_arrays
from strategies.weights import added, difference, zeros_like
from tasks.contract import Arrays
from tasks.errors import ConfigError

__all__ = ["FedBuff", "local_update"]


@dataclass
class _Wave:
    """One round's requests: the model they carry, its version, who has not replied."""

    model: Arrays
    version: int
    nodes: set[int]
    replies: Iterator[Message]


class FedBuff(FedAvg):
    """Server half; holds one model for each version that a site still trains on.

    Parameters
    ----------
    buffer_size : int, > 0
        K.
    server_lr : float
        eta_g.
    staleness_exponent : float
        0.5 is the paper's; 0 ignores age.
    """

    needs_single_updates: ClassVar[bool] = True
    transient: ClassVar[tuple[str, ...]] = (*FedAvg.transient, "waves")

    def __init__(
        self,
        buffer_size: int = 3,
        server_lr: float = 1.0,
        staleness_exponent: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if buffer_size < 1:
            raise ConfigError(f"strategy.buffer_size must be at least 1, got {buffer_size}")
        self.buffer_size = buffer_size
        self.server_lr = server_lr
        self.staleness_exponent = staleness_exponent
        self.version = 0
        self.buffered = 0
        self.buffer: Arrays | None = None
        self.waves: list[_Wave] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sites that are not training."""
        self.sent_record = arrays
        busy = {node for wave in self.waves for node in wave.nodes}
        free = [node for node in grid.get_node_ids() if node not in busy]
        count = max(int(len(free) * self.fraction_train), min(len(free), 1))
        nodes = random.sample(free, count)
        config[ROUND] = server_round
        self.waves.append(_Wave(self.sent, self.version, set(nodes), iter(())))
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return self._construct_messages(content, nodes, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fill the buffer with the oldest replies; step when it is full."""
        self.waves[-1].replies = iter(replies)
        losses = []
        while self.buffered < self.buffer_size and self.waves:
            wave = self.waves[0]
            reply = next(wave.replies, None)
            if reply is None:
                self.waves.pop(0)
            elif not reply.has_error():
                wave.nodes.discard(reply.metadata.src_node_id)
                losses.append(self._fold(reply, wave))
        if not losses:
            return None, None
        return pack_arrays(self._step()), MetricRecord({LOSS: float(np.mean(losses))})

    def _fold(self, reply: Message, wave: _Wave) -> float:
        update = difference(
            unpack_arrays(record_of(reply.content, ARRAYS, ArrayRecord)), wave.model
        )
        weight = (1.0 + self.version - wave.version) ** -self.staleness_exponent
        self.buffer = added(self.buffer or zeros_like(update), weight, update)
        self.buffered += 1
        return number(record_of(reply.content, METRICS, MetricRecord), LOSS, 0.0)

    def _step(self) -> Arrays:
        """Return the new model; the old one while the buffer is not full."""
        if self.buffered < self.buffer_size or self.buffer is None:
            return self.sent
        moved = added(self.sent, self.server_lr / self.buffered, self.buffer)
        self.buffer, self.buffered = None, 0
        self.version += 1
        return moved
