"""Training requests that outlive their round: what an asynchronous strategy reads from.

A site that has not replied when the round ends goes on training; its reply counts in the round in
which it comes. One line of replies serves all rounds, so that a slow site holds up nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Message

from fl_server.results.records import SiteRecord
from fl_server.rounds.exchange import EvaluateOutcome, TrainOutcome
from fl_server.rounds.federation import Federation
from fl_server.rounds.phases import EvaluatePhase, TrainPhase, phase_of
from fl_server.rounds.replies import LOST, ReplyCheck, ReplyCollector
from fl_server.rounds.reply_stream import open_stream
from fl_server.rounds.sites import Site
from tasks.contract import HOLDOUT, Arrays


class AsyncExchange:
    """Train without waiting for the slowest; a round ends when the strategy has enough."""

    def __init__(
        self, federation: Federation, training: TrainPhase, evaluation: EvaluatePhase
    ) -> None:
        self._federation = federation
        self._training = training
        self._evaluation = evaluation
        self._requests = OpenRequests(federation)

    def train(self, number: int, arrays: Arrays) -> TrainOutcome:
        """Train one round on the sites that owe nothing; one reply makes a model."""
        self._requests.begin()
        return self._training.run(
            number,
            arrays,
            self._requests,
            lambda messages, sent, extra: self._requests.collect(
                messages, self._training.check(sent, extra)
            ),
            gather=lambda: self._requests.free(self._federation.gather()),
            quorum=1,
        )

    def evaluate(self, number: int, arrays: Arrays, split: str = HOLDOUT) -> EvaluateOutcome:
        """Pool the metric summands of the connected sites.

        Sites that still train are asked in the last round only: until then they would hold up all
        others.

        Raises
        ------
        QuorumError
            If too few sites answer.
        """
        sites = self._evaluation.gather(split)
        unasked: dict[str, SiteRecord] = {}
        if self._requests.is_concurrent and number < self._federation.config.rounds:
            unasked = self._requests.unasked(sites, phase_of(split))
            sites = self._requests.free(sites)
        collector = ReplyCollector(self._federation, phase_of(split))
        messages = self._evaluation.messages(number, arrays, sites, split)
        stats = self._evaluation.pool(collector, messages, split)
        return self._evaluation.outcome(number, stats, collector.records, split, unasked)


@dataclass(frozen=True)
class _Asked:
    """What one site was asked, when (monotonic seconds), and how its reply is checked."""

    message: Message
    check: ReplyCheck
    at: float


class OpenRequests(ReplyCollector):
    """Training requests over all rounds; ``begin`` opens each.

    Attributes
    ----------
    records : dict of str to SiteRecord
        The current round's: sites asked in it, and sites whose reply came in it.
    num_accepted : int
        Replies of the current round that passed, to whichever round's request.
    """

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation, "train")
        self._stream = open_stream(federation.grid)
        self._open: dict[str, _Asked] = {}

    @property
    def is_concurrent(self) -> bool:
        """Whether a busy site cannot be asked for anything else without waiting for it."""
        return self._stream.concurrent

    def begin(self) -> None:
        """Open a round with no records."""
        self.records = {}
        self.num_accepted = 0

    def collect(self, messages: Iterable[Message], check: ReplyCheck) -> Iterator[Message]:
        """Send ``messages``; yield each reply, to these or to earlier ones, that passes its check.

        The caller stops when it has enough; what is open then stays open.
        """
        outstanding: dict[str, Message] = {}
        sent = list(self._noted(messages, outstanding))
        now = time.monotonic()
        for site, message in outstanding.items():
            self._open[site] = _Asked(message, check, now)
            self._note(site, status="training", reason="its update counts when it comes")
        self._stream.send(sent)
        while self._open:
            self._give_up_overdue()
            due = min((asked.at for asked in self._open.values()), default=0.0)
            reply = self._stream.receive(due + self._waits.reply_seconds - time.monotonic())
            if reply is not None and self._counts(reply):
                yield reply
            elif reply is None and not self._is_overdue(due):
                break  # nothing is owed by the grid any more

    def free(self, sites: list[Site]) -> list[Site]:
        """Return the sites that owe nothing."""
        return [site for site in sites if site.name not in self._open]

    def unasked(self, sites: list[Site], phase: str) -> dict[str, SiteRecord]:
        """Return the records of busy sites that are spared a further request."""
        why = "not asked: it still trains on an older model"
        busy = [site.name for site in sites if site.name in self._open]
        return {name: SiteRecord(name, phase, "training", reason=why) for name in busy}

    def _counts(self, reply: Message) -> bool:
        """Record a reply; say whether it passed its check."""
        site = self._site_of(reply, {s: asked.message for s, asked in self._open.items()})
        if site is None or site not in self._open:
            return False
        asked = self._open.pop(site)
        self._started = asked.at
        if site not in self.records:
            self.records[site] = SiteRecord(site, self.phase, "late")
        if reply.has_error() and reply.error.code in LOST:
            self._note(site, status="absent", reason="site dropped out")
            return False
        return self._accepted(site, reply, {site: asked.message}, asked.check)

    def _give_up_overdue(self) -> None:
        for site, asked in list(self._open.items()):
            if self._is_overdue(asked.at):
                del self._open[site]
                self._started = asked.at
                if site not in self.records:
                    self.records[site] = SiteRecord(site, self.phase, "late")
                self._note(site, status="late", reason="no reply in time")

    def _is_overdue(self, asked_at: float) -> bool:
        return time.monotonic() >= asked_at + self._waits.reply_seconds
