"""In front of Flower's web application: what a site may ask, and when it is answered.

Flower serves its Fleet, Control and Runtime APIs on one port. Sites need the first only, so
the rest is refused here. For our resident clients, recognised by a session header, it adds

- long polling: a request for messages is held until there is one, instead of being repeated;
- batches: many objects in one request, because each one costs a round trip;
- one client for each key: whoever joined last is served, its predecessor is told so;
- presence: a client whose waiting connection breaks and does not come back is marked offline;
- pressure: a reply is taken in only while few others wait to be added up, so that memory holds
  some replies and not all.

Stock nodes send no such header and are served as Flower does.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fl_server.superlink import object_batches
from fl_server.superlink.asgi_helpers import (
    OFFER,
    App,
    Event,
    Receive,
    Send,
    answer,
    read_body,
    replay,
)
from fl_server.superlink.link_state import WatchedLinkState
from strategies.wire import fleet

MAX_BODY_BYTES = 64 * 2**20
MAX_WAIT_SECONDS = 60.0
PRESENCE_SECONDS = 3.0
# ASGI gives header names as bytes, in lower case.
_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
_SESSION = fleet.SESSION_HEADER.encode()
_WAIT = fleet.WAIT_HEADER.encode()
_RUN = fleet.RUN_HEADER.encode()
_UPLOAD = fleet.UPLOAD_HEADER.encode()


class FleetMiddleware:
    """ASGI application in front of Flower's.

    Parameters
    ----------
    app : App
        Flower's SuperLink application.
    state : WatchedLinkState
        The link state that the application serves.
    max_open_replies : int
        How many replies may be on their way in or wait to be taken out.
    """

    def __init__(self, app: App, state: WatchedLinkState, *, max_open_replies: int) -> None:
        self._max_open_replies = max_open_replies
        self._app = app
        self._state = state
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sessions: dict[bytes, bytes] = {}
        self._last_seen: dict[bytes, float] = {}
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._space = asyncio.Event()
        self._closing = False
        self._admitted = 0
        self._background: set[asyncio.Task[None]] = set()
        state.on_mail = lambda node_id: self._from_thread(self._wake, node_id)
        state.on_space = lambda: self._from_thread(self._space.set)

    def close(self) -> None:
        """Let go of every held request; called from any thread."""
        self._closing = True
        self._from_thread(self._wake_all)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self._loop = self._loop or asyncio.get_running_loop()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        status = self._check(path, headers)
        if status != 200:
            await answer(send, status)
            return
        handler = self._handlers().get(path)
        if handler is None or (_SESSION not in headers and handler != self._push_message):
            await self._app(scope, receive, send)
        else:
            await handler(scope, headers, receive, send)

    def _handlers(
        self,
    ) -> dict[str, Callable[[Event, dict[bytes, bytes], Receive, Send], Awaitable[None]]]:
        return {
            "/v1/fleet/activate-node": self._activate,
            "/v1/fleet/pull-messages": self._pull_messages,
            "/v1/fleet/push-messages": self._push_message,
            fleet.PULL_PATH: self._pull_objects,
            fleet.PUSH_PATH: self._push_objects,
        }

    def _check(self, path: str, headers: dict[bytes, bytes]) -> int:
        """Decide on a request before its body is read: the HTTP status, 200 to go on."""
        batched = path in (fleet.PULL_PATH, fleet.PUSH_PATH)
        if not (path.startswith("/v1/fleet/") or path == "/health" or batched):
            return 404
        try:
            length = int(headers.get(b"content-length", b"0"))
        except ValueError:
            return 400
        if length > MAX_BODY_BYTES or b"transfer-encoding" in headers:
            return 413
        session = headers.get(_SESSION)
        if session is None:
            return 401 if batched else 200
        if path in ("/v1/fleet/activate-node", "/v1/fleet/register-node"):
            return 200
        return self._check_session(headers)

    def _check_session(self, headers: dict[bytes, bytes]) -> int:
        """Compare a session with the one that last joined with the same key.

        Only a request that proved possession of the key sets it, so that whoever knows it is
        that client: batches need no further signature.
        """
        known = self._sessions.get(_key_of(headers))
        if known is None:
            return 401
        if known != headers.get(_SESSION):
            return 409
        self._last_seen[known] = asyncio.get_running_loop().time()
        return 200

    async def _activate(
        self, scope: Event, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        async def remember(event: Event) -> None:
            if event["type"] == "http.response.start" and event["status"] == 200:
                key, session = _key_of(headers), headers[_SESSION]
                self._last_seen.pop(self._sessions.get(key, b""), None)
                self._sessions[key] = session
                self._last_seen[session] = asyncio.get_running_loop().time()
                event["headers"] = [*event.get("headers", []), OFFER]
            await send(event)

        await self._app(scope, receive, remember)

    async def _pull_messages(
        self, scope: Event, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        key = _key_of(headers)
        node_id = self._state.get_node_id_by_public_key(key)
        try:
            seconds = min(float(headers.get(_WAIT, b"0")), MAX_WAIT_SECONDS)
        except ValueError:
            seconds = 0.0
        body = await read_body(receive)
        if node_id is not None:
            self._state.reclaim(node_id)
            if not await self._hold(node_id, seconds, receive):
                self._later(self._watch_absence(node_id, headers[_SESSION], key))
                return
        status = self._check_session(headers)
        if status != 200:
            await answer(send, status)
        else:
            await self._app(scope, replay(body, receive), send)

    async def _hold(self, node_id: int, seconds: float, receive: Receive) -> bool:
        """Wait for mail; False when the client hung up meanwhile."""
        rung = asyncio.Event()
        self._waiting.setdefault(node_id, set()).add(rung)
        gone = asyncio.ensure_future(receive())
        ring = asyncio.ensure_future(rung.wait())
        try:
            if not (self._state.has_mail(node_id) or self._closing):
                await asyncio.wait(
                    {gone, ring}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
            return not gone.done()
        finally:
            gone.cancel()
            ring.cancel()
            self._waiting[node_id].discard(rung)

    async def _watch_absence(self, node_id: int, session: bytes, key: bytes) -> None:
        """Mark a node offline whose connection broke, unless it is back soon."""
        left_at = asyncio.get_running_loop().time()
        await asyncio.sleep(PRESENCE_SECONDS)
        current = self._sessions.get(key) == session
        if current and self._last_seen.get(session, 0.0) <= left_at and not self._closing:
            await asyncio.to_thread(self._state.deactivate_node, node_id)

    async def _push_message(
        self, scope: Event, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Admit a reply from the node that it names as its sender, when there is space."""
        body = await read_body(receive)
        try:
            request = PushMessagesRequest.FromString(body)
            sender = request.messages_list[0].metadata.src_node_id
        except (DecodeError, IndexError):
            await answer(send, 400)
            return
        if sender != self._state.get_node_id_by_public_key(_key_of(headers)):
            await answer(send, 403)
            return
        if _SESSION in headers and not await self._wait_for_space():
            await answer(send, 503)
            return
        self._admitted += 1
        try:
            await self._app(scope, replay(body, receive), send)
        finally:
            self._admitted -= 1

    async def _wait_for_space(self) -> bool:
        deadline = asyncio.get_running_loop().time() + 15.0
        while self._state.num_message_res() + self._admitted >= self._max_open_replies:
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0 or self._closing:
                return False
            self._space.clear()
            try:
                await asyncio.wait_for(self._space.wait(), min(remaining, 1.0))
            except TimeoutError:
                continue
        return True

    async def _pull_objects(
        self, scope: Event, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Answer with as many frames as ids were asked for."""
        body = await read_body(receive)
        run_id = _number(headers, _RUN)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for frame in object_batches.frames(self._state, run_id, body):
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _push_objects(
        self, scope: Event, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Store objects; 410 when one is not wanted any more."""
        body = await read_body(receive)
        run_id = _number(headers, _RUN)
        upload = headers.get(_UPLOAD, b"").decode("ascii", "replace")
        stored = await asyncio.to_thread(object_batches.store, self._state, run_id, upload, body)
        await answer(send, 200 if stored else 410)

    def _from_thread(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _wake(self, node_id: int) -> None:
        for event in self._waiting.get(node_id, ()):
            event.set()

    def _wake_all(self) -> None:
        self._space.set()
        for node_id in self._waiting:
            self._wake(node_id)

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _key_of(headers: dict[bytes, bytes]) -> bytes:
    try:
        return b64decode(headers.get(_KEY_HEADER, b""), validate=True)
    except binascii.Error:
        return b""


def _number(headers: dict[bytes, bytes], name: bytes) -> int:
    value = headers.get(name, b"")
    return int(value) if value.isdigit() else 0
