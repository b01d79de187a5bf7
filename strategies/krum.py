"""Krum and Multi-Krum, both updates.

Blanchard, El Mhamdi, Guerraoui, Stainer: "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017 (arXiv:1703.02757), section 4::

    s(k) = sum of squared distances from w_k to its n - f - 2 nearest others,    n >= 2f + 3
    Krum: w <- w_k of the smallest s;    Multi-Krum: w <- mean of the m smallest

Against Flower's: distances in float64 around the mean (``strategies.robust``), a model is
never its own neighbour, n >= 2f + 3 is checked, and Multi-Krum averages evenly as in the paper
(Flower weighs by the number of examples that a site claims).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp import strategy as flower

from strategies.arguments import check_whole_or_null
from strategies.fedavg import local_update
from strategies.robust import krum_scores, models_of, plain_mean, squared_distances, tolerated
from strategies.wire.records import pack_arrays
from tasks.contract import Arrays

__all__ = ["Krum", "MultiKrum", "local_update"]


class MultiKrum(flower.MultiKrum):
    """Multi-Krum. Holds every reply.

    Parameters
    ----------
    num_malicious_nodes : int, >= 0, or None
        f; None: as many as the replies of a round allow.
    num_nodes_to_select : int, >= 1, or None
        m; None: n - f.
    """

    client_update: ClassVar[str] = "fedavg"

    def __init__(
        self,
        num_malicious_nodes: int | None = None,
        num_nodes_to_select: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.malicious = check_whole_or_null("num_malicious_nodes", num_malicious_nodes, least=0)
        self.selected = check_whole_or_null("num_nodes_to_select", num_nodes_to_select, least=1)

    def check_replies(self, num_replies: int) -> int:
        """Return f for so many replies; a ReplyError if they are too few for the rule."""
        return tolerated(num_replies, self.malicious, 2, "krum")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the models of the smallest scores."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        f = self.check_replies(len(valid))
        models = models_of(valid)
        best = select(models, f, self.selected or len(models) - f)
        contents = [valid[index].content for index in best]
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return pack_arrays(plain_mean([models[index] for index in best])), metrics


class Krum(MultiKrum):
    """Krum: Multi-Krum with m = 1."""

    def __init__(self, num_malicious_nodes: int | None = None, **kwargs: Any) -> None:
        super().__init__(num_malicious_nodes, 1, **kwargs)


def select(models: Sequence[Arrays], num_malicious: int, num_selected: int) -> list[int]:
    """Return the indices of the smallest scores, best first; ties go to the first."""
    scores = krum_scores(squared_distances(models), num_malicious)
    return [int(index) for index in np.argsort(scores, kind="stable")[:num_selected]]
