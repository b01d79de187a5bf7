"""Central differential privacy per site, with fixed or adaptive clipping, round any strategy.

McMahan, Ramage, Talwar, Zhang: "Learning Differentially Private Recurrent Language Models", ICLR
2018 (arXiv:1710.06963); Andrew, Thakkar, McMahan, Ramaswamy: "Differentially Private Learning with
Adaptive Clipping", NeurIPS 2021 (arXiv:1905.03871), Algorithm 1::

    s    <- sum_k d_k min(1, C / ||d_k||) + N(0, (z_d C)^2),          d_k = w_k - w
    w'   <- w + s / m                                       handed to the strategy as the mean
    b    <- (sum_k (1[||d_k|| <= C] - 1/2) + N(0, sigma_b^2)) / m + 1/2
    C    <- C exp(-eta_C (b - gamma)),         z_d = (z^-2 - (2 sigma_b)^-2)^(-1/2)

Every site counts the same: with weights by examples one site could move the mean by more than
C / m. Noise goes in before the strategy's own step (momentum, Adam), which is then free
post-processing. Memory is one model, as replies arrive.

Flower's wrappers are not used: their adaptive one counts the updates that were clipped where the
paper counts those that were not, so the norm runs away from the quantile; it also reads a stream of
replies twice. The fixed one divides the noise by the configured and not the actual number of
replies, adds it after the strategy's step, takes the weighted mean as if it were the plain one
(unless its own accountant is given), and cannot divide by the norm of an update that is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from strategies.privacy.accounting import epsilon_of
from strategies.privacy.modes import CentralAdaptive, CentralFixed
from strategies.registry import client_update_name
from strategies.requirements import Requirements
from strategies.wire.messages import ARRAYS
from strategies.wire.records import pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays


class CentralDp(Strategy):
    """Wrap a strategy; what it gets to see is the noised mean, in place of every reply.

    Attributes
    ----------
    clipping_norm : float
        C, as the next round will use it.
    num_releases : int
        Noised means so far: the unit of the accountant.
    """

    requirements: ClassVar[Requirements] = Requirements(not_saved=("sent_record",))

    def __init__(self, strategy: Strategy, mode: CentralFixed | CentralAdaptive) -> None:
        self.strategy = strategy
        self.client_update = client_update_name(strategy)
        self.clipping_norm = (
            mode.clipping_norm if isinstance(mode, CentralFixed) else mode.initial_clipping_norm
        )
        self.num_releases = 0
        self.sent_record: ArrayRecord | None = None
        self._mode = mode

    @property
    def epsilon(self) -> float | None:
        """Epsilon of all rounds so far, for a site that took part in each; None without noise."""
        mode = self._mode
        spent = epsilon_of([(mode.noise_multiplier, 1.0, self.num_releases)], mode.delta)
        return spent if math.isfinite(spent) else None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask whom the strategy asks."""
        self.sent_record = arrays
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Clip, sum and noise the updates; let the strategy make its step from their mean."""
        mode, rng = self._mode, noise_source(self._mode.noise_seed, self.num_releases)
        sent = unpack_arrays(self.sent_record) if self.sent_record is not None else {}
        total, clipped = ClippedSum(sent, self.clipping_norm), []
        for reply in replies:
            if not reply.has_error():
                record = record_of(reply.content, ARRAYS, ArrayRecord)
                total.add(unpack_arrays(record, copy=False))
                reply.content[ARRAYS] = ArrayRecord()
                clipped.append(reply)
        if not clipped:
            return None, None
        stddev, count_stddev = noise_stddevs(mode, len(clipped))
        mean = pack_arrays(total.noised_mean(rng, stddev * self.clipping_norm))
        if isinstance(mode, CentralAdaptive):
            share = total.noised_share_below(rng, count_stddev)
            self.clipping_norm *= math.exp(-mode.clip_lr * (share - mode.target_quantile))
        self.num_releases += 1
        for reply in clipped:
            reply.content[ARRAYS] = mean
        return self.strategy.aggregate_train(server_round, clipped)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask whom the strategy asks."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate as the strategy does."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the strategy's settings."""
        self.strategy.summary()


class ClippedSum:
    """Sum of updates, each of l2 norm at most ``norm`` over all floating weights together.

    Neighbours differ in one site's contribution to both sums, which is removed (0 in its place);
    m, the number of updates, is public and the same. That moves the sum of updates by at most
    ``norm``, and ``below``, the sum of 1[||d_k|| <= C] - 1/2, by exactly 1/2 (Andrew et al. 2021,
    Algorithm 1: without the shift it would be 1). Integer weights (a count of batches) keep the
    sent value.
    """

    def __init__(self, sent: Arrays, norm: float) -> None:
        self._sent = sent
        self._norm = norm
        self._sums: dict[str, NDArray[np.float64]] = {
            name: np.zeros(a.shape) for name, a in sent.items() if a.dtype.kind == "f"
        }
        self.num_updates = 0
        self.below = 0.0

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Clip and add one model's difference to the sent one."""
        updates = {n: arrays[n].astype(np.float64) - self._sent[n] for n in self._sums}
        norm = math.sqrt(sum(float(np.vdot(u, u)) for u in updates.values()))
        below = norm <= self._norm
        scale = 1.0 if below else self._norm / norm
        for name, update in updates.items():
            self._sums[name] += scale * update
        self.num_updates += 1
        self.below += below - 0.5

    def noised_mean(self, rng: np.random.Generator, stddev: float) -> Arrays:
        """Return the sent model plus the noised mean update, in the sent dtypes."""
        moved = dict(self._sent)
        for name, total in self._sums.items():
            noise = rng.normal(0.0, stddev, total.shape) if stddev else 0.0
            mean = self._sent[name] + (total + noise) / self.num_updates
            moved[name] = np.asarray(mean).astype(self._sent[name].dtype)
        return moved

    def noised_share_below(self, rng: np.random.Generator, stddev: float) -> float:
        """Return the noised share b of updates that were not clipped; sensitivity 1/2 / m."""
        noise = float(rng.normal(0.0, stddev)) if stddev else 0.0
        return (self.below + noise) / self.num_updates + 0.5


def noise_source(seed: int | None, release: int) -> np.random.Generator:
    """Return one release's generator: a resumed run must neither repeat noise nor change it."""
    return np.random.default_rng(None if seed is None else [seed, release])


def noise_stddevs(mode: CentralFixed | CentralAdaptive, num_updates: int) -> tuple[float, float]:
    """Return the noise on updates in units of C, and that on the count.

    Together they are as private as one release with the mode's noise multiplier (Andrew et al.,
    Theorem 1): the sensitivities are C and 1/2 (``ClippedSum``), and z^-2 is the sum of z_d^-2 and
    (2 sigma_b)^-2.
    """
    z = mode.noise_multiplier
    if isinstance(mode, CentralFixed) or z == 0:
        return z, 0.0
    count = max(num_updates / 20, z) if mode.count_stddev is None else mode.count_stddev
    return float((z**-2 - (2 * count) ** -2) ** -0.5), count
