"""What replies say, and the checks that each must pass first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from flwr.app import Message, MetricRecord

from fl_common.errors import ReplyError
from fl_server.config.run_config import RunConfig
from fl_server.results.records import RoundRecord, SiteRecord
from fl_server.rounds.exchange import Exchange
from fl_server.rounds.reply_validation import check_evaluate, check_train, decode_update
from fl_server.rounds.sites import Site
from strategies.wire.messages import EPSILON, METRICS
from strategies.wire.records import record_of
from tasks.contract import Arrays
from tasks.stats import Stats
from tasks.trees.variable_size import VariableSizeModel


@dataclass
class RepliesSoFar:
    """What was heard so far; late replies of earlier rounds (FedBuff) count when they come.

    Parameters
    ----------
    num_accepted : int
        Replies since the start of the round.
    epsilons : dict of str to float
        What each site says that its own private training has spent.
    """

    num_accepted: int = 0
    epsilons: dict[str, float] = field(default_factory=dict)

    @property
    def epsilon(self) -> float | None:
        """The largest of the sites' epsilons; None where none was reported."""
        return max(self.epsilons.values(), default=None)

    def recall(self, records: Iterable[RoundRecord]) -> None:
        """Remember what the sites of a resumed run had said."""
        for record in records:
            spent = {site.site: site.epsilon for site in record.sites if site.epsilon is not None}
            self.epsilons |= spent

    def annotated(self, records: Iterable[SiteRecord]) -> tuple[SiteRecord, ...]:
        """Add to each record what the site had spent after it."""
        return tuple(
            replace(record, epsilon=self.epsilons.get(record.site))
            if record.status == "ok"
            else record
            for record in records
        )


class TrainCheck:
    """Check one training reply after the other against the model that was sent.

    Parameters
    ----------
    extra : dict of str to array
        What a reply must carry for the strategy, beside the weights.
    growing : (VariableSizeModel, bool) or None
        A model that judges its replies itself, and whether these must be whole.
    """

    def __init__(
        self,
        heard: RepliesSoFar,
        config: RunConfig,
        sent: Arrays,
        *,
        extra: Arrays,
        growing: tuple[VariableSizeModel, bool] | None,
    ) -> None:
        self._heard = heard
        self._config = config
        self._sent = sent
        self._extra = extra
        self._growing = growing

    def __call__(self, member: Site, reply: Message) -> tuple[int, float | None]:
        """Return the reply's example count and loss; private training sends no loss.

        Raises
        ------
        ReplyError
            Saying what is wrong with the reply.
        """
        decode_update(reply, self._sent, self._config.communication)
        count, loss = check_train(
            reply,
            self._sent,
            member.num_train,
            self._config.sites.max_update_norm,
            extra=self._extra,
            growing=self._growing,
        )
        spent = epsilon_in(reply)
        if spent is not None:
            self._heard.epsilons[member.name] = spent
        self._heard.num_accepted += 1
        return count, None if self._config.train.dp is not None else loss


def pooled(
    exchange: Exchange, messages: Iterable[Message], blank: Stats | None, counts_per_row: int
) -> Stats:
    """Add up the metric summands of all sites, as their replies arrive.

    Parameters
    ----------
    blank : Stats or None
        What the task's summands look like.
    counts_per_row : int
        How much one held-out row may add to a count.
    """
    running = Stats()

    def screen(member: Site, reply: Message) -> tuple[int, None]:
        nonlocal running
        rows = member.num_rows(exchange.phase)
        answer = check_evaluate(reply, rows, blank, counts_per_row=counts_per_row)
        running = running.merge(answer.stats)
        return answer.num_examples, None

    for _ in exchange.replies(messages, screen):
        pass
    return running


def verdict(
    new: Arrays | None, statuses: Collection[str], num_accepted: int, wanted: int
) -> tuple[str, str]:
    """Say whether the aggregated model may become the model of record.

    Parameters
    ----------
    statuses : collection of str
        Of the round's site records.
    num_accepted : int
        Replies, late ones of earlier rounds (FedBuff) included.

    Returns
    -------
    (str, str)
        ``ok``, ``diverged`` or ``failed``, and why.
    """
    if "diverged" in statuses and not num_accepted:
        return "diverged", "training diverged at every site; lower train.lr"
    if num_accepted < wanted:
        return "failed", f"{num_accepted} of {wanted} sites replied; previous model kept"
    if new is None:
        return "failed", "the strategy returned no model; previous model kept"
    if not all(np.isfinite(a).all() for a in new.values() if a.dtype.kind == "f"):
        return "diverged", "the aggregated model is not finite; previous model kept"
    return "ok", ""


def epsilon_in(reply: Message) -> float | None:
    """Return the epsilon that a reply reports.

    Raises
    ------
    ReplyError
        If it is no number from 0.
    """
    value = record_of(reply.content, METRICS, MetricRecord).get(EPSILON)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ReplyError(f"'{EPSILON}' must be a number from 0, got {value!r}")
    return float(value)
