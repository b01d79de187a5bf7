"""Training requests that outlive their round: what an asynchronous strategy reads from.

A site that has not replied when the round ends goes on training; its reply counts in the round in
which it comes. One line of replies serves all rounds, so that a slow site holds up nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from fl_server.config.run_config import SitesConfig
from fl_server.results.records import SiteRecord
from fl_server.rounds.exchange import LOST, Exchange, Refresh, Screen
from fl_server.rounds.reply_stream import open_stream
from fl_server.rounds.sites import Site, SiteRegistry


@dataclass(frozen=True)
class _Asked:
    """What one site was asked, when (monotonic seconds), and how its reply is checked."""

    message: Message
    screen: Screen
    round: int
    at: float


class AsyncExchange(Exchange):
    """One training exchange over all rounds; ``begin`` opens each.

    Attributes
    ----------
    records : dict of str to SiteRecord
        The current round's: sites asked in it, and sites whose reply came in it.
    """

    def __init__(
        self, grid: Grid, registry: SiteRegistry, sites: SitesConfig, refresh: Refresh
    ) -> None:
        super().__init__(grid, registry, sites, phase="train", refresh=refresh)
        self._stream = open_stream(grid)
        self._open: dict[str, _Asked] = {}
        self._round = 0

    @property
    def is_concurrent(self) -> bool:
        """Whether a busy site cannot be asked for anything else without waiting for it."""
        return self._stream.concurrent

    def begin(self, number: int) -> None:
        """Open a round with no records."""
        self._round = number
        self.records = {}

    def replies(self, messages: Iterable[Message], screen: Screen) -> Iterator[Message]:
        """Send ``messages``; yield each reply, to these or to earlier ones, that passes its check.

        The caller stops when it has enough; what is open then stays open.
        """
        outstanding: dict[str, Message] = {}
        sent = list(self._noted(messages, outstanding))
        now = time.monotonic()
        for site, message in outstanding.items():
            self._open[site] = _Asked(message, screen, self._round, now)
            self._note(site, status="training", reason="its update counts when it comes")
        self._stream.send(sent)
        while self._open:
            self._give_up_overdue()
            due = min((asked.at for asked in self._open.values()), default=0.0)
            reply = self._stream.receive(due + self._sites.reply_seconds - time.monotonic())
            if reply is not None and self._counts(reply):
                yield reply
            elif reply is None and not self._is_overdue(due):
                break  # nothing is owed by the grid any more

    def free(self, members: list[Site]) -> list[Site]:
        """Return the sites that owe nothing."""
        return [member for member in members if member.name not in self._open]

    def unasked(self, members: list[Site], phase: str) -> dict[str, SiteRecord]:
        """Return the records of busy sites that are spared a further request."""
        why = "not asked: it still trains on an older model"
        busy = [member.name for member in members if member.name in self._open]
        return {site: SiteRecord(site, phase, "training", reason=why) for site in busy}

    def close(self) -> None:
        """Give up every open request."""
        self._stream.close()

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
        return self._accepted(site, reply, {site: asked.message}, asked.screen)

    def _give_up_overdue(self) -> None:
        for site, asked in list(self._open.items()):
            if self._is_overdue(asked.at):
                del self._open[site]
                self._started = asked.at
                if site not in self.records:
                    self.records[site] = SiteRecord(site, self.phase, "late")
                self._note(site, status="late", reason="no reply in time")

    def _is_overdue(self, asked_at: float) -> bool:
        return time.monotonic() >= asked_at + self._sites.reply_seconds
