"""q-FedAvg, both updates.

Li, Sanjabi, Beirami, Smith: "Fair Resource Allocation in Federated Learning", ICLR 2020
(arXiv:1905.10497), Algorithm 2::

    d_k = F_k(w)^q L (w - w_k),    h_k = q F_k(w)^(q-1) ||L (w - w_k)||^2 + L F_k(w)^q
    w <- w - sum_k d_k / sum_k h_k

F_k(w) is a site's loss at the received weights, before it trains: the client update measures it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from fl_common.errors import ReplyError
from strategies.accumulator import WeightedMean
from strategies.arguments import check_number
from strategies.arrays import difference, squared_norm, statistics, toward
from strategies.local import LocalResult, LocalRound
from strategies.requirements import Requirements
from strategies.streaming_mean import number
from strategies.wire.messages import ARRAYS, LOSS, METRICS, NUM_EXAMPLES
from strategies.wire.records import pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays

SMALLEST_LOSS = 1e-10
"""Keeps F^(q-1) finite, as Flower's strategy does."""


class QFedAvg(flower.QFedAvg):
    """Flower's q-FedAvg, folded as replies arrive.

    Parameters
    ----------
    client_learning_rate : float, > 0
        L = 1 / this: the sites' ``train.lr``.
    q : float, >= 0
        0 is the plain mean of the sites' models.
    """

    client_update: ClassVar[str] = "qfedavg"
    requirements: ClassVar[Requirements] = Requirements(
        exact_losses=True, not_saved=("current_arrays", "sent")
    )

    def __init__(self, client_learning_rate: float, q: float = 0.1, **kwargs: Any) -> None:
        rate = check_number("client_learning_rate", client_learning_rate, above=0)
        super().__init__(rate, check_number("q", q, least=0), LOSS, **kwargs)
        self.sent: Arrays = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember w, then ask the sampled sites to train."""
        self.sent = unpack_arrays(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold d_k and h_k: w - sum_k d_k / sum_k h_k = w + (L S / H) (mean - w).

        ``mean`` weighs w_k by F_k^q, S is the sum of these weights and H the sum of the h_k.
        """
        lipschitz = 1.0 / self.client_learning_rate
        mean, scale, losses, examples = WeightedMean(), 0.0, 0.0, 0.0
        for reply in replies:
            if reply.has_error():
                continue
            metrics = record_of(reply.content, METRICS, MetricRecord)
            arrays = unpack_arrays(record_of(reply.content, ARRAYS, ArrayRecord))
            loss = number(metrics, LOSS) + SMALLEST_LOSS
            if not loss > 0:
                raise ReplyError(f"q-FedAvg needs losses above 0, a site sent {loss}")
            norm = lipschitz**2 * squared_norm(difference(arrays, self.sent))
            scale += self.q * loss ** (self.q - 1) * norm + lipschitz * loss**self.q
            mean.add(arrays, loss**self.q)
            count = number(metrics, NUM_EXAMPLES)
            losses, examples = losses + count * loss, examples + count
        target = mean.result()
        if target is None:
            return None, None
        moved = toward(self.sent, lipschitz * mean.weight / scale, target)
        return pack_arrays(moved | statistics(target)), MetricRecord({LOSS: losses / examples})


def local_update(local: LocalRound) -> LocalResult:
    """Measure the loss at the received weights, then train; report the former."""
    loss = local.loss_at_received()
    return LocalResult(replace(local.train(), loss=loss), {})
