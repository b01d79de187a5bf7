"""Requests sent at different times, one line of replies: what asynchronous rounds read from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid


class ReplyStream(Protocol):
    """Replies to everything that was sent through it, in the order in which they come."""

    concurrent: bool
    """Whether sites work while nobody waits for them."""

    def send(self, messages: Iterable[Message]) -> None:
        """Send further messages, without waiting."""

    def receive(self, timeout: float) -> Message | None:
        """Return the next reply; None when the time is over or nothing is owed."""

    def close(self) -> None:
        """Give up what is owed."""


class QueuedStream:
    """A stream on a grid that only knows how to send and wait: replies come in order of sending.

    In a simulation that is all there is to tell: a site computes its reply when it is read.
    """

    concurrent = False

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._owed: deque[Iterator[Message]] = deque()

    def send(self, messages: Iterable[Message]) -> None:
        """Queue messages behind those sent before."""
        self._owed.append(iter(self._grid.send_and_receive(list(messages))))

    def receive(self, timeout: float) -> Message | None:
        """Return the next reply in order of sending; ``timeout`` has no meaning here."""
        while self._owed:
            reply = next(self._owed[0], None)
            if reply is not None:
                return reply
            self._owed.popleft()
        return None

    def close(self) -> None:
        """Forget what is owed."""
        self._owed.clear()


def open_stream(grid: Grid) -> ReplyStream:
    """Return the grid's own stream, or a queue on top of it."""
    make = getattr(grid, "stream", None)
    stream: ReplyStream = make() if make is not None else QueuedStream(grid)
    return stream
