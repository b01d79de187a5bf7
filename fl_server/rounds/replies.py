"""Ask sites and collect their replies: send, receive, check, record.

Replies are checked and handed on one by one as they arrive. A site that drops out is asked again
when it comes back in time; otherwise it costs its own contribution and is named.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fl_common.errors import ReplyError
from fl_server.config.run_config import SitesConfig
from fl_server.results.records import SiteRecord
from fl_server.rounds.federation import Federation
from fl_server.rounds.reply_validation import CheckedReply
from fl_server.rounds.sites import Site, wait_for_change
from strategies.wire.records import payload_bytes
from strategies.wire.refusal import Refusal

LOST = {
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
}
MAX_ATTEMPTS = 3
"""How often one site is asked again in one exchange."""
ReplyCheck = Callable[[Site, Message], CheckedReply]
"""Returns what a reply says; raises ``ReplyError`` where it may not count."""


class ReplyCollector:
    """Send one kind of message to some sites and collect the replies that pass a check.

    Attributes
    ----------
    records : dict of str to SiteRecord
        One acknowledged record per site, complete once ``collect`` is exhausted.
    num_accepted : int
        Replies that passed.

    Parameters
    ----------
    waits : SitesConfig or None
        How long to wait for whom, where it is not what the run says.
    """

    def __init__(
        self, federation: Federation, phase: str, waits: SitesConfig | None = None
    ) -> None:
        self._federation = federation
        self._registry = federation.registry
        self._waits = waits or federation.config.sites
        self.phase = phase
        self.records: dict[str, SiteRecord] = {}
        self.num_accepted = 0
        self._attempts: Counter[str] = Counter()
        self._started = time.monotonic()

    def collect(self, messages: Iterable[Message], check: ReplyCheck) -> Iterator[Message]:
        """Yield each reply that passes ``check``; record every site that was asked."""
        self._started = time.monotonic()
        deadline = self._started + self._waits.reply_seconds
        outstanding: dict[str, Message] = {}
        self._attempts.clear()
        batch: Iterable[Message] = self._noted(messages, outstanding)
        while True:
            remaining = max(deadline - time.monotonic(), 0.0)
            for reply in self._federation.grid.send_and_receive(batch, timeout=remaining):
                site = self._site_of(reply, outstanding)
                if site is not None and self._accepted(site, reply, outstanding, check):
                    yield reply
            back = self._rejoined(outstanding, deadline)
            if not back:
                break
            batch = self._readdressed(back, outstanding)
        for site in outstanding:
            late = time.monotonic() >= deadline
            status, reason = (
                ("late", "no reply in time") if late else ("absent", "site dropped out")
            )
            self._note(site, status=status, reason=reason)

    def _noted(
        self, messages: Iterable[Message], outstanding: dict[str, Message]
    ) -> Iterator[Message]:
        sizes: dict[int, int] = {}
        for message in messages:
            site = self._registry.name_of(message.metadata.dst_node_id)
            if site is None:
                continue
            outstanding[site] = message
            key = id(message.content)
            if key not in sizes:
                sizes[key] = payload_bytes(message.content)
            self.records[site] = SiteRecord(
                site, self.phase, "late", bytes_down=sizes[key], reason="no reply yet"
            )
            yield message

    def _site_of(self, reply: Message, outstanding: dict[str, Message]) -> str | None:
        """Name the site of a reply; Flower's own error replies only name the message."""
        name = self._registry.name_of(reply.metadata.src_node_id)
        if name is not None:
            return name
        asked = reply.metadata.reply_to_message_id
        return next((s for s, m in outstanding.items() if m.metadata.message_id == asked), None)

    def _accepted(
        self, site: str, reply: Message, outstanding: dict[str, Message], check: ReplyCheck
    ) -> bool:
        if site not in outstanding:
            return False  # a second reply of one site does not count twice
        if reply.has_error():
            self._refused(site, reply, outstanding)
            return False
        size = payload_bytes(reply.content)
        outstanding.pop(site)
        try:
            checked = check(self._registry.site(site), reply)
        except ReplyError as error:
            self._note(site, status="refused", reason=str(error), bytes_up=size)
            return False
        self._note(site, status="ok", reason="", bytes_up=size, **vars(checked))
        self.num_accepted += 1
        return True

    def _refused(self, site: str, reply: Message, outstanding: dict[str, Message]) -> None:
        code = reply.error.code
        why = Refusal.from_code(code)
        if why is None and code in LOST:
            return  # stays outstanding: the site may come back in time
        outstanding.pop(site)
        status = "diverged" if why is Refusal.DIVERGED else "failed"
        reason = why.text if why is not None else f"the site failed (Flower error {code})"
        self._note(site, status=status, reason=reason)

    def _rejoined(self, outstanding: dict[str, Message], deadline: float) -> list[str]:
        """Wait a while for sites that dropped out; return those that can be asked again."""
        give_up = min(deadline, time.monotonic() + self._waits.rejoin_seconds)
        while outstanding and time.monotonic() < give_up:
            self._federation.refresh()
            able = {site for site in outstanding if self._attempts[site] < MAX_ATTEMPTS}
            if not able:
                break
            if back := sorted(able & self._federation.online()):
                self._attempts.update(back)
                return back
            wait_for_change(self._federation.grid)
        return []

    def _readdressed(self, sites: list[str], outstanding: dict[str, Message]) -> list[Message]:
        again = []
        for site in sites:
            old = outstanding[site]
            node_id = self._registry.site(site).node_id
            message = Message(old.content, node_id, old.metadata.message_type)
            outstanding[site] = message
            again.append(message)
        return again

    def _note(self, site: str, **changes: Any) -> None:
        seconds = time.monotonic() - self._started
        self.records[site] = replace(self.records[site], seconds=seconds, **changes)
