"""What every exchange does alike in a phase: ask the strategy, judge what it made, pool, record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
from flwr.app import ConfigRecord, Message

from fl_common.errors import QuorumError
from fl_server.results.records import SiteRecord
from fl_server.rounds.client_sampling import seeded_sampling
from fl_server.rounds.exchange import EvaluateOutcome, TrainOutcome
from fl_server.rounds.federation import Federation
from fl_server.rounds.replies import ReplyCollector
from fl_server.rounds.reply_validation import (
    CheckedReply,
    TrainCheck,
    check_evaluate,
    make_validator,
)
from fl_server.rounds.run_memory import RunMemory
from fl_server.rounds.sites import Site, SiteGrid, addressed
from fl_server.rounds.strategy_errors import definition, failure
from strategies.requirements import requirements_of, round_metrics
from strategies.snapshot import restore, snapshot
from strategies.wire.messages import CONFIG, EVALUATE, JOB, LOSS, ROUND, SPLIT, request
from strategies.wire.records import pack_arrays, record_of, unpack_arrays
from tasks.contract import HOLDOUT, Arrays, child_seed
from tasks.stats import Stats

log = logging.getLogger("fedleague.server")
Deliver = Callable[[Iterable[Message], Arrays, Arrays], Iterable[Message]]
"""Brings (messages, weights sent, extra arrays expected) to the sites; yields good replies."""


class Received(Protocol):
    """What is known of a phase's sites while and after it is delivered."""

    @property
    def records(self) -> Mapping[str, SiteRecord]:
        """One per site that was asked, or that replied."""

    @property
    def num_accepted(self) -> int:
        """Replies that count, late ones of earlier rounds included."""


class TrainPhase:
    """Have a strategy configure a round and aggregate its replies, however they travel.

    Attributes
    ----------
    strategy : Strategy
    """

    def __init__(self, federation: Federation, memory: RunMemory) -> None:
        self._federation = federation
        self._memory = memory
        self.strategy = memory.strategy
        self._validator = make_validator(federation.config, self.strategy, federation.state.model)

    def check(self, sent: Arrays, extra: Arrays) -> TrainCheck:
        """Return the check of the replies to ``sent``."""
        private = self._federation.config.train.dp is not None
        return TrainCheck(self._validator, sent, extra, is_private=private)

    def run(
        self,
        number: int,
        arrays: Arrays,
        received: Received,
        deliver: Deliver,
        *,
        gather: Callable[[], list[Site]] | None = None,
        quorum: int | None = None,
        config: Mapping[str, str] | None = None,
    ) -> TrainOutcome:
        """Train one round; whatever goes wrong in it, the previous model is kept.

        Parameters
        ----------
        gather : callable or None
            Returns the sites that may be asked; None: all that are connected.
        quorum : int or None
            Fewest replies that make a model; None: what the run says.
        config : mapping or None
            What the messages say beside the job and the round.
        """
        before, own = snapshot(self.strategy), {}
        wanted = quorum or self._federation.config.sites.quorum or 1
        try:
            sites = (gather or self._federation.gather)()
            messages = self._configured(number, arrays, sites, config or {})
            expected = requirements_of(self.strategy).expected_extra
            extra = expected() if expected is not None else {}
            new, loss = self._aggregated(number, deliver(messages, arrays, extra))
            statuses = {record.status for record in received.records.values()}
            status, reason = verdict(new, statuses, received.num_accepted, wanted)
            if new is not None:
                reason += definition(self.strategy) if status != "ok" else ""
                new = self._validator.cast(new, arrays, definition(self.strategy))
            if status == "ok":
                own = round_metrics(self.strategy)
        except (Exception, SystemExit) as error:
            log.debug("strategy failed", exc_info=True)
            new, loss, status, reason = None, None, "failed", failure(self.strategy, error)
        if status != "ok":
            restore(self.strategy, *before)
            new = None
        records = self._federation.by_site(received.records, "train")
        self._memory.note(number, records, succeeded=status == "ok")
        return TrainOutcome(new, status, reason, loss, records, own)

    def _configured(
        self, number: int, arrays: Arrays, sites: list[Site], more: Mapping[str, str]
    ) -> Iterator[Message]:
        federation = self._federation
        chosen = self._memory.sampling.names(number, sites)
        grid = SiteGrid(federation.grid, federation.registry, chosen)
        config = ConfigRecord({JOB: federation.state.job_text, ROUND: number, **more})
        with seeded_sampling(child_seed(federation.config.seed, "sample", number)):
            asked = self.strategy.configure_train(number, pack_arrays(arrays), config, grid)
        return self._memory.clients.addressed(asked)

    def _aggregated(
        self, number: int, replies: Iterable[Message]
    ) -> tuple[Arrays | None, float | None]:
        record, metrics = self.strategy.aggregate_train(number, replies)
        loss = metrics.get(LOSS) if metrics is not None else None
        if self._federation.config.train.dp is not None:
            loss = None  # the sites keep it
        return (
            unpack_arrays(record) if record is not None else None,
            float(loss) if isinstance(loss, int | float) else None,
        )


class EvaluatePhase:
    """Ask the sites for their metric summands and pool them, however they travel.

    Attributes
    ----------
    counts_per_row : int
        How much one row may add to a count.
    """

    def __init__(self, federation: Federation, memory: RunMemory, counts_per_row: int = 1) -> None:
        self._federation = federation
        self._memory = memory
        self.counts_per_row = counts_per_row

    def gather(self, split: str) -> list[Site]:
        """Return the connected sites that have something to say of a split."""
        sites = self._federation.gather()
        return sites if split == HOLDOUT else [site for site in sites if site.num_rows(split)]

    def messages(
        self,
        number: int,
        arrays: Arrays,
        sites: Iterable[Site],
        split: str,
        config: Mapping[str, str] | None = None,
    ) -> Iterator[Message]:
        """Return the requests to evaluate ``arrays``.

        Parameters
        ----------
        config : mapping or None
            What the messages say beside the job, the round and the split.
        """
        content = request(self._federation.state.job_text, number, pack_arrays(arrays))
        of_split = {} if split == HOLDOUT else {SPLIT: split}
        record_of(content, CONFIG, ConfigRecord).update({**of_split, **(config or {})})
        return self._memory.clients.addressed(addressed(content, EVALUATE, sites))

    def pool(self, collector: ReplyCollector, messages: Iterable[Message], split: str) -> Stats:
        """Add up the metric summands of all sites, as their replies arrive."""
        running, expected = Stats(), self._federation.state.empty_stats

        def check(site: Site, reply: Message) -> CheckedReply:
            nonlocal running
            rows = site.num_rows(split)
            answer = check_evaluate(reply, rows, expected, counts_per_row=self.counts_per_row)
            running = running.merge(answer.stats)
            return CheckedReply(answer.num_examples)

        for _ in collector.collect(messages, check):
            pass
        return running

    def outcome(
        self,
        number: int,
        stats: Stats,
        records: Mapping[str, SiteRecord],
        split: str,
        unasked: Mapping[str, SiteRecord] | None = None,
    ) -> EvaluateOutcome:
        """Return the pooled summands, if enough sites contributed.

        Parameters
        ----------
        unasked : mapping or None
            The records of sites that were spared the request; no quorum waits for them.

        Raises
        ------
        QuorumError
            Naming the sites that did not contribute.
        """
        unasked = unasked or {}
        answered = sum(record.status == "ok" for record in records.values())
        wanted = max((self._federation.config.sites.quorum or 1) - len(unasked), 1)
        if split != HOLDOUT:
            able = sum(site.num_rows(split) > 0 for site in self._federation.registry)
            # where all of them are busy, the round has no validation score
            wanted = min(wanted, able - len(unasked)) if unasked else min(wanted, max(able, 1))
        if answered < wanted:
            why = "; ".join(f"{r.site}: {r.reason}" for r in records.values() if r.reason)
            raise QuorumError(
                f"round {number}: {answered} of {wanted} sites evaluated the model"
                f"{' (' + why + ')' if why else ''}; the last finished round is saved, "
                f"continue with fl-server resume={self._federation.config.folder}"
            )
        sites = self._federation.by_site({**records, **unasked}, phase_of(split))
        return EvaluateOutcome(stats, sites)


def phase_of(split: str) -> str:
    """Return how the records name an evaluation on a split."""
    return "evaluate" if split == HOLDOUT else "validate"


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
