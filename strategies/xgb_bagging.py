"""Federated XGBoost by bagging, both updates.

Flower's ``FedXgbBagging`` (its documentation's "Quickstart XGBoost"): every site grows trees on
the booster it received and sends the new ones only, which the server appends::

    B <- B + sum_k c_k (new trees of site k on B)

with c_k = 1. All these trees correct the same residual, so that a round's step is about as many
times ``model.params.eta`` as there are sites. With c_k = n_k / n (``combine: mean``) the step is
eta whatever the number of sites: federated averaging of functions. Chen and Guestrin, "XGBoost: A
Scalable Tree Boosting System", KDD 2016.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from fl_common.errors import ConfigError
from strategies.local import LocalResult, LocalRound
from strategies.requirements import Requirements
from strategies.streaming_mean import number
from strategies.wire.messages import ARRAYS, LOSS, METRICS, NUM_EXAMPLES
from strategies.wire.records import pack_arrays, record_of, unpack_arrays
from tasks.contract import Array
from tasks.trees import booster_json as boosters

KEY = "0"
"""The one array of a booster, as Flower names it."""


class XgbBagging(flower.FedXgbBagging):
    """Server update: appends the new trees in the order of the nodes, however they arrive.

    Flower's own takes one tree of a reply and books it for class 0; this one takes all of them,
    each for its class.

    Parameters
    ----------
    combine : {"sum", "mean"}
        c_k = 1, as in Flower, or n_k / n.
    **kwargs
        Of ``flwr.serverapp.strategy.FedXgbBagging``.

    Raises
    ------
    ConfigError
        If ``combine`` is something else.
    """

    client_update: ClassVar[str] = "xgb_bagging"
    requirements: ClassVar[Requirements] = Requirements(not_saved=("current_bst",))

    def __init__(self, combine: str = "sum", **kwargs: Any) -> None:
        if combine not in ("sum", "mean"):
            raise ConfigError(f"strategy.combine must be sum or mean, got {combine!r}")
        super().__init__(**kwargs)
        self.combine = combine

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Hold a round's new trees, then append them to the booster that was sent."""
        new: list[tuple[int, int, Array]] = []
        loss, examples = 0.0, 0
        for reply in replies:
            if reply.has_error():
                continue
            arrays = unpack_arrays(record_of(reply.content, ARRAYS, ArrayRecord))
            metrics = record_of(reply.content, METRICS, MetricRecord)
            count = int(number(metrics, NUM_EXAMPLES))
            new.append((reply.metadata.src_node_id, count, arrays[KEY]))
            loss += count * number(metrics, LOSS, 0.0)
            examples += count
        if not new or self.current_bst is None:
            return None, None
        new.sort(key=lambda reply: reply[:2])
        parts = [
            trees if self.combine == "sum" else boosters.scaled(trees, count / examples)
            for _, count, trees in new
        ]
        merged = boosters.joined(boosters.from_bytes(self.current_bst), parts)
        metrics = MetricRecord({LOSS: loss / max(examples, 1), NUM_EXAMPLES: examples})
        return pack_arrays({KEY: merged}), metrics


def local_update(local: LocalRound) -> LocalResult:
    """Grow trees on the booster received; send the new ones only."""
    outcome = local.train()
    new = boosters.added(outcome.arrays[KEY], local.received[KEY])
    return LocalResult(replace(outcome, arrays={KEY: new}), {})
