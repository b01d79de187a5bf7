"""How one phase of a round reaches the sites: a protocol, so that the round loop names no way.

Plain messages, requests that outlive their round and masked sums stand behind it; another way
(training and folding cohorts where the data is, say) is one more class, chosen in ``selection``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fl_server.results.records import SiteRecord
from tasks.contract import HOLDOUT, Arrays
from tasks.stats import Stats


@dataclass(frozen=True)
class TrainOutcome:
    """What the training phase of a round led to.

    Parameters
    ----------
    arrays : dict of str to array, or None
        The new model; None where the previous one is kept.
    status : {"ok", "diverged", "failed"}
    reason : str
        Why the status is not ``ok``.
    loss : float or None
        Mean training loss, where the sites tell it.
    strategy_metrics : mapping of str to float
        The strategy's own numbers about the round (``round_metrics``).
    sites : tuple of SiteRecord
        What each site contributed, or why it did not, by name.
    """

    arrays: Arrays | None = None
    status: str = "ok"
    reason: str = ""
    loss: float | None = None
    sites: tuple[SiteRecord, ...] = ()
    strategy_metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateOutcome:
    """The pooled metric summands of one split, and what each site contributed to them."""

    stats: Stats
    sites: tuple[SiteRecord, ...] = ()


class Exchange(Protocol):
    """One way through a phase: the strategy's requests to the sites, and what came back."""

    def train(self, number: int, arrays: Arrays) -> TrainOutcome:
        """Train round ``number`` from ``arrays``.

        The strategy says whom to ask and combines what passes its checks. Whatever goes wrong in
        it, the outcome says so, and the strategy is as it was before.
        """

    def evaluate(self, number: int, arrays: Arrays, split: str = HOLDOUT) -> EvaluateOutcome:
        """Pool the metric summands of every connected site that has rows of a split.

        Parameters
        ----------
        split : {"holdout", "validation"}
            The sites' records name the phase ``evaluate`` or ``validate`` after it.

        Raises
        ------
        QuorumError
            If too few sites answer.
        """
