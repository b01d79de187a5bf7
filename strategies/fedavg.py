"""Federated averaging, both halves.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep
Networks from Decentralized Data", AISTATS 2017 (arXiv:1602.05629), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.accumulator import WeightedMean
from strategies.local import LocalResult, LocalRound
from strategies.messages import (
    ARRAYS,
    LOSS,
    METRICS,
    NUM_EXAMPLES,
    PROXIMAL_MU,
    pack_arrays,
    unpack_arrays,
)
from tasks.contract import LocalObjective


class FedAvg(flower.FedAvg):
    """FedAvg that folds replies as they arrive.

    Same arguments and same result as ``flwr.serverapp.strategy.FedAvg``, which holds every reply
    until the last; this one holds one running sum, so server memory is O(model).
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies into the example-weighted mean of models and losses."""
        mean = WeightedMean()
        loss = 0.0
        for reply in replies:
            if reply.has_error():
                continue
            metrics = reply.content.metric_records[METRICS]
            weight = float(metrics[self.weighted_by_key])  # type: ignore[arg-type]
            mean.add(unpack_arrays(reply.content.array_records[ARRAYS]), weight)
            loss += weight * float(metrics.get(LOSS, 0.0))  # type: ignore[arg-type]
        arrays = mean.result()
        if arrays is None:
            return None, None
        record = MetricRecord({LOSS: loss / mean.weight, NUM_EXAMPLES: int(mean.weight)})
        return pack_arrays(arrays), record


def local_update(local: LocalRound) -> LocalResult:
    """Train from the received weights.

    A server half that sets ``proximal-mu`` (Flower's FedProx) gets its proximal term:
    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, eq. 2.
    """
    mu = local.number(PROXIMAL_MU, 0.0)
    objective = LocalObjective(proximal_mu=mu, anchor=local.received if mu else None)
    return LocalResult(local.train(objective), {})
