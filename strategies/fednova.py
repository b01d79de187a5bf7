"""FedNova, both updates.

Wang, Liu, Liang, Joshi, Poor: "Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization", NeurIPS 2020 (arXiv:2007.07481), eq. 8 and section 4::

    x <- x - tau_eff sum_k p_k (x - x_k) / |a_k|,     tau_eff = sum_k p_k |a_k|

|a_k| is the l1 norm of the weights that the local solver gives to its gradients: tau_k, the
number of steps, for SGD, and [tau - rho (1 - rho^tau) / (1 - rho)] / (1 - rho) with momentum rho.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from flwr.app import ArrayRecord, Message, MetricRecord

from fl_common.errors import ReplyError
from strategies.arguments import check_number
from strategies.arrays import toward
from strategies.fedavg import FedAvg, local_update
from strategies.requirements import Requirements
from strategies.streaming_mean import RoundMean, number
from strategies.wire.messages import NUM_STEPS
from tasks.contract import Arrays

__all__ = ["FedNova", "local_update"]


class FedNova(FedAvg):
    """Server update; the client update is plain local SGD, whose number of steps is in each reply.

    Parameters
    ----------
    momentum : float, in [0, 1)
        rho, the sites' ``train.momentum``.
    """

    client_update: ClassVar[str] = "fedavg"
    requirements = Requirements(sgd=True, not_saved=("steps", "examples"))

    def __init__(self, momentum: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = check_number("momentum", momentum, least=0, below=1)
        self.requirements = Requirements(momentum=self.momentum)
        self.steps = self.examples = 0.0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Start the round's sums, then fold."""
        self.steps = self.examples = 0.0
        return super().aggregate_train(server_round, replies)

    def weight(self, metrics: MetricRecord) -> float:
        """Weigh a site by n_k / |a_k|; note n_k and n_k |a_k|."""
        steps = number(metrics, NUM_STEPS)
        if not steps >= 0:
            raise ReplyError(f"'{NUM_STEPS}' must be a count, got {steps}")
        examples = number(metrics, self.weighted_by_key)
        norm = gradient_weight(steps, self.momentum)
        self.examples += examples
        self.steps += examples * norm
        return examples / norm if norm else 0.0

    def update(self, fold: RoundMean) -> Arrays:
        """Step by tau_eff along the mean normalised change.

        The fold's mean is sum_k (n_k/|a_k|) x_k / W with W = sum_k n_k/|a_k|, so that
        sum_k p_k (x - x_k) / |a_k| = (W / n) (x - mean).
        """
        effective = self.steps / self.examples
        return toward(self.sent, effective * fold.weight / self.examples, fold.mean)


def gradient_weight(steps: float, momentum: float) -> float:
    """Return |a|, the l1 norm of the gradients' weights after ``steps`` of (momentum) SGD."""
    if not momentum:
        return steps
    return float((steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum))
