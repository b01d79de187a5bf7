"""Bulyan, both updates.

El Mhamdi, Guerraoui, Rouault: "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018 (arXiv:1802.07927), section 4, with Krum as its rule::

    S <- {};  theta = n - 2f times: move Krum's choice among the remaining models to S
    w[j] <- mean of the beta = theta - 2f values of S closest to their median,    n >= 4f + 3

Flower's strategy takes the theta best scores of one pass instead of choosing again among the rest,
and returns no model, silently, from too few replies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.arguments import check_whole_or_null
from strategies.fedavg import local_update
from strategies.robust import krum_scores, models_of, squared_distances, tolerated
from strategies.wire.records import pack_arrays
from tasks.contract import Array, Arrays

__all__ = ["Bulyan", "local_update"]


class Bulyan(flower.Bulyan):
    """Bulyan over Krum. Holds every reply.

    Parameters
    ----------
    num_malicious_nodes : int, >= 0, or None
        f; None: as many as the replies of a round allow.
    """

    client_update: ClassVar[str] = "fedavg"

    def __init__(self, num_malicious_nodes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.malicious = check_whole_or_null("num_malicious_nodes", num_malicious_nodes, least=0)

    def check_replies(self, num_replies: int) -> int:
        """Return f for so many replies; a ReplyError if they are too few for the rule."""
        return tolerated(num_replies, self.malicious, 4, "bulyan")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Select theta models, then average the beta closest to the median of each coordinate."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        f = self.check_replies(len(valid))
        models = models_of(valid)
        chosen = select(models, f)
        arrays = {
            name: around_median([models[k][name] for k in chosen], len(chosen) - 2 * f)
            for name in models[0]
        }
        contents = [valid[index].content for index in chosen]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return pack_arrays(arrays), metrics


def select(models: Sequence[Arrays], num_malicious: int) -> list[int]:
    """Apply Krum n - 2f times, each time among the models that are left."""
    distances = squared_distances(models)
    left = list(range(len(models)))
    chosen: list[int] = []
    while len(chosen) < len(models) - 2 * num_malicious:
        if len(left) > 1:
            scores = krum_scores(distances[np.ix_(left, left)], num_malicious)
            best = int(np.argmin(scores))
        else:
            best = 0
        chosen.append(left.pop(best))
    return chosen


def around_median(arrays: Sequence[Array], num_closest: int) -> Array:
    """Return the mean of the values closest to the median of each coordinate.

    The median is one of the values (the lower of two), as the paper defines it.
    """
    stack = np.stack(arrays)  # (theta, ...)
    median = np.sort(stack, axis=0)[(len(arrays) - 1) // 2]
    order = np.argsort(np.abs(stack - median), axis=0, kind="stable")[:num_closest]
    closest = np.take_along_axis(stack, order, axis=0)
    return np.asarray(closest.mean(axis=0, dtype=np.float64)).astype(stack.dtype)
