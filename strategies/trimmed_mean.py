"""Coordinate-wise trimmed mean, both updates.

Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018 (arXiv:1803.01498), Definition 2 and Algorithm 1, option II::

    w[j] <- mean of { w_k[j] } without the beta n smallest and the beta n largest

The guarantee asks for a trimmed share of at least that of the malicious sites. Flower rounds
beta n down, so that beta = 0.2 trims nobody among four sites, and floating point may take one
more (``int(0.29 * 100)`` is 28); here beta n is rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from fl_common.errors import ReplyError
from strategies.arguments import check_number
from strategies.fedavg import local_update
from strategies.robust import models_of
from strategies.wire.records import pack_arrays
from tasks.contract import Array

__all__ = ["TrimmedMean", "local_update"]


class TrimmedMean(flower.FedTrimmedAvg):
    """Flower's FedTrimmedAvg with the paper's share. Holds every reply.

    Parameters
    ----------
    beta : float, in [0, 0.5)
        Share of values cut at each end.
    """

    client_update: ClassVar[str] = "fedavg"

    def __init__(self, beta: float = 0.2, **kwargs: Any) -> None:
        super().__init__(beta=check_number("beta", beta, least=0, below=0.5), **kwargs)

    def check_replies(self, num_replies: int) -> int:
        """Return how many are cut at each end; a ReplyError if none of so many would be left."""
        return num_trimmed(num_replies, self.beta)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Trim and average each coordinate."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        models = models_of(valid)
        cut = self.check_replies(len(models))
        arrays = {name: trimmed([m[name] for m in models], cut) for name in models[0]}
        metrics = self.train_metrics_aggr_fn([m.content for m in valid], self.weighted_by_key)
        return pack_arrays(arrays), metrics


def num_trimmed(num_replies: int, beta: float) -> int:
    """Return how many values are cut at each end.

    Raises
    ------
    ReplyError
        If nothing would be left.
    """
    cut = math.ceil(beta * num_replies - 1e-9)
    if 2 * cut >= num_replies:
        raise ReplyError(
            f"trimming {cut} at each end leaves none of {num_replies} replies; lower strategy.beta"
        )
    return cut


def trimmed(arrays: list[Array], cut: int) -> Array:
    """Return the mean over sites without the ``cut`` smallest and largest of each coordinate."""
    ordered = np.sort(np.stack(arrays), axis=0)[cut : len(arrays) - cut]
    return np.asarray(ordered.mean(axis=0, dtype=np.float64)).astype(arrays[0].dtype)
