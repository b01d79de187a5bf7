"""Federated averaging, both updates, and the hooks that other strategies fill.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient Learning of Deep
Networks from Decentralized Data", AISTATS 2017 (arXiv:1602.05629), Algorithm 1::

    w <- sum_k (n_k / n) w_k
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flower

from fl_common.errors import ConfigError
from strategies.arrays import statistics
from strategies.local import LocalResult, LocalRound, Scalar
from strategies.requirements import Requirements
from strategies.streaming_mean import RoundMean, fold_replies, number
from strategies.wire.messages import EXTRA, PROXIMAL_MU
from strategies.wire.records import pack_arrays, unpack_arrays
from tasks.contract import Arrays, LocalObjective


class FedAvg(flower.FedAvg):
    """FedAvg that folds replies as they arrive, with hooks for other strategies.

    Same arguments and same result as ``flwr.serverapp.strategy.FedAvg``, which holds every reply
    until the last; this one holds one running sum, so server memory is O(model).

    A strategy overrides what it needs of ``round_config``, ``extra``, ``expected_extra``,
    ``weight`` and ``update``. Its state is plain attributes (arrays by name, numbers, ``None``
    before the first round) that are replaced, never changed in place: then a failed round is
    undone and a killed run resumes (``strategies.snapshot``).

    Attributes
    ----------
    client_update : str
        Name in ``strategies.registry``, or ``module:function``.
    requirements : Requirements
        What the strategy needs of a run and offers to it.
    weighting : {"examples", "uniform"}
    num_sites, num_examples : int
        Of the whole federation, sampled or not, and training rows there.
    statistics : dict of str to array
        The round's mean running statistics of normalisation layers; ``update`` leaves no trace
        in them.
    """

    client_update: ClassVar[str] = "fedavg"
    requirements: Requirements = Requirements(
        not_saved=("sent_record", "num_sites", "num_examples", "statistics")
    )
    weighting: str = "examples"
    sent_record: ArrayRecord | None = None
    num_sites: int = 0
    num_examples: int = 0
    statistics: Arrays = {}  # noqa: RUF012 (replaced, never changed in place)

    @property
    def sent(self) -> Arrays:
        """The model that this round's sites received."""
        return unpack_arrays(self.sent_record) if self.sent_record is not None else {}

    def round_config(self) -> Mapping[str, Scalar]:
        """Return scalars for the client update."""
        return {}

    def extra(self) -> Arrays:
        """Return arrays that travel with the model to every site of the round."""
        return {}

    def expected_extra(self) -> Arrays:
        """Return arrays in the names, shapes and dtypes that each reply must carry as extra."""
        return {}

    def weight(self, metrics: MetricRecord) -> float:
        """Return a reply's weight in the means."""
        return 1.0 if self.weighting == "uniform" else number(metrics, self.weighted_by_key)

    def participation(self, fold: RoundMean) -> float:
        """Return the replies' share of the federation, in the weights of the means.

        With it a mean over the replies updates a mean over all sites: sum_k p_k c_k changes by
        (sum_{k in S} p_k) times the p-weighted mean change in S, for p_k = n_k / n as for 1 / N.
        """
        if self.weighting == "uniform" or not self.num_examples:
            return fold.num_replies / self.num_sites
        return fold.weight / self.num_examples

    def update(self, fold: RoundMean) -> Arrays:
        """Return the new model."""
        return fold.mean

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the sampled sites to train; add the strategy's scalars and arrays."""
        self.sent_record = arrays
        self.num_sites = count_sites(grid)
        self.num_examples = int(getattr(grid, "num_examples", 0))
        config.update(self.round_config())
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if extra := self.extra():
            record = pack_arrays(extra)
            for message in messages:
                message.content[EXTRA] = record
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Fold replies into weighted means, then apply ``update``."""
        fold = fold_replies(replies, self.weight)
        if fold is None:
            return None, None
        self.statistics = statistics(fold.mean)
        return pack_arrays(self.update(fold) | self.statistics), fold.metrics()

    def averaged(self, moved: ArrayRecord | None) -> ArrayRecord | None:
        """Put the mean running statistics into a model that a step on the mean led to."""
        if moved is None or not self.statistics:
            return moved
        return pack_arrays(unpack_arrays(moved, copy=False) | self.statistics)


def count_sites(grid: Grid) -> int:
    """Return how many sites there are, whether or not this round's sampling shows them."""
    return int(getattr(grid, "num_sites", 0)) or len(list(grid.get_node_ids()))


def checked_weighting(weighting: str) -> str:
    """Return ``weighting``.

    Raises
    ------
    ConfigError
        If it is neither ``examples`` (n_k / n) nor ``uniform`` (1 / |S|).
    """
    if weighting not in ("examples", "uniform"):
        raise ConfigError(f"strategy.weighting must be examples or uniform, got {weighting!r}")
    return weighting


def local_update(local: LocalRound) -> LocalResult:
    """Train from the received weights.

    A server update that sets ``proximal-mu`` (Flower's FedProx) gets its proximal term:
    Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, eq. 2.
    """
    mu = local.number(PROXIMAL_MU, 0.0)
    objective = LocalObjective(proximal_mu=mu, anchor=local.received if mu else None)
    return LocalResult(local.train(objective), {})
