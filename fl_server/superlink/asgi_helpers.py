"""The few things about web requests that the middleware needs, without a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from strategies.wire.fleet import OFFER_HEADER

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Event, Receive, Send], Awaitable[None]]

OFFER = (OFFER_HEADER.encode(), b"1")
"""The header of every answer that is ours."""


async def read_body(receive: Receive) -> bytes:
    """Read a request's body to its end."""
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if event["type"] != "http.request" or not event.get("more_body", False):
            return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body read before, then goes on."""
    waiting: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Event:
        return waiting.pop() if waiting else await receive()

    return again


async def answer(send: Send, status: int) -> None:
    """Send an answer of the middleware itself."""
    body = b'{"detail": "fedleague"}' if status != 200 else b""
    headers = [(b"content-type", b"application/json"), OFFER]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
