"""The resident client: one process that stays, joins, works on messages and joins again.

It runs the ClientApp that is installed here, in this process. What the server would ship (the
app bundle of the run) is not even asked for.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.task_identity import TaskIdentity

from fl_client.link.fleet_http import FleetWire, RefusedError, UnknownNodeError, UnreachableError
from fl_client.link.fleet_messages import FleetMessages
from fl_common.errors import LinkError
from fl_common.logs import quieten

POLL_SECONDS = 20.0
HEARTBEAT_SECONDS = 8.0
MAX_CONTEXTS = 8
_FIRST_BACKOFF_SECONDS = 0.02
_LAST_BACKOFF_SECONDS = 1.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class NodeConfig:
    """Which server to serve, and as whom.

    Attributes
    ----------
    server : str
        `host:port`.
    ca : Path, optional
        Certificate of the authority that signed the server's; None trusts the system's.
    insecure : bool (default: False)
        Speak plain HTTP.
    private_key : Path, optional
        The node's key; None makes one up, which only an open server accepts.
    max_wait_seconds : float, optional
        Give up after this long without an answer; None waits for ever.
    node_config : Mapping[str, str | int | float | bool] (default: {})
        Handed to the ClientApp as `context.node_config`.
    """

    server: str
    ca: Path | None = None
    insecure: bool = False
    private_key: Path | None = None
    max_wait_seconds: float | None = None
    node_config: Mapping[str, str | int | float | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )


def run_node(config: NodeConfig, app: ClientApp, *, stop: threading.Event, say: Say) -> None:
    """Serve until told to stop.

    Parameters
    ----------
    config : NodeConfig
        Which server to serve, and as whom.
    app : ClientApp
        What to run on each message. Should it raise, the server gets a fixed code, never the
        exception's text.
    stop : threading.Event
        Set it to leave: at once when idle, else after the message in hand.
    say : Callable[[str], None]
        Takes one line for the person at the terminal.

    Raises
    ------
    LinkError
        Trouble that waiting does not cure: address, TLS, key, a second client with the same
        key, or no answer within `max_wait_seconds`.
    """
    quieten()
    wire = FleetWire(
        config.server, ca=config.ca, insecure=config.insecure, private_key=config.private_key
    )
    try:
        _Node(config, app, wire, stop, say).run()
    finally:
        wire.close()


class _Node:
    """State of a resident client between messages."""

    def __init__(
        self, config: NodeConfig, app: ClientApp, wire: FleetWire, stop: threading.Event, say: Say
    ) -> None:
        self._config = config
        self._app = app
        self._wire = wire
        self._messages = FleetMessages(wire)
        self._stop = stop
        self._say = say
        self._contexts: OrderedDict[int, Context] = OrderedDict()
        self._received: Message | None = None
        self._silent_since: float | None = None
        self._idle = threading.Event()
        self._over = threading.Event()

    def run(self) -> None:
        """Join and work, again and again."""
        threading.Thread(target=self._beat, name="heartbeats", daemon=True).start()
        try:
            while not self._stop.is_set() and self._persist(self._join):
                self._say(f"joined {self._config.server} as node {self._messages.node_id}")
                try:
                    self._work()
                except UnknownNodeError:
                    self._say(f"{self._config.server} has restarted; joining again")
        finally:
            self._messages.leave()
            self._over.set()

    def _join(self) -> None:
        """Activate this node; register its key first where the server lets anybody in."""
        try:
            self._messages.join()
        except RefusedError as refusal:
            if refusal.code == ApiErrorCode.FLEET_SUPERNODE_REGISTRATION_DISABLED:
                raise self._not_enrolled() from refusal
            raise LinkError(
                f"{self._config.server}: the server refuses this client (code {refusal.code})"
            ) from refusal
        except UnknownNodeError as error:
            raise LinkError(
                f"{self._config.server}: the server does not accept this client's signature; "
                "check that both run the same version"
            ) from error

    def _not_enrolled(self) -> LinkError:
        key = self._config.private_key
        if key is None:
            return LinkError(
                f"{self._config.server}: only enrolled keys may join; make a node key, have the "
                "organiser enrol its .pub file, and start with the key"
            )
        return LinkError(
            f"{self._config.server}: this client's key is not enrolled; "
            f"ask the organiser to enrol {_public_file(key)}"
        )

    def _work(self) -> None:
        """Take messages and answer them until told to stop."""
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stop.is_set():
            self._idle.set()
            self._persist(self._receive)
            self._idle.clear()
            message, self._received = self._received, None
            if message is not None and not self._stop.is_set():
                self._persist(partial(self._messages.send, self._answer(message)))
                backoff = _FIRST_BACKOFF_SECONDS
            elif not self._wire.offers_batches:  # A stock server holds no request: pause here.
                self._stop.wait(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)

    def _receive(self) -> None:
        self._received = self._messages.receive(POLL_SECONDS)

    def _answer(self, message: Message) -> Message:
        """Run the app; a failure becomes a fixed code."""
        run_id = message.metadata.run_id
        TaskIdentity.task_id = message.metadata.dst_task_id or run_id
        TaskIdentity.run_id, TaskIdentity.node_id = run_id, self._messages.node_id
        context = self._contexts.setdefault(
            run_id,
            Context(
                run_id=run_id,
                node_id=self._messages.node_id,
                node_config=dict(self._config.node_config),
                state=RecordDict(),
                run_config={},
            ),
        )
        self._contexts.move_to_end(run_id)
        while len(self._contexts) > MAX_CONTEXTS:
            self._contexts.popitem(last=False)
        try:
            reply = self._app(message, context)
            if reply.metadata.reply_to_message_id == message.metadata.message_id:
                return reply
            self._say("the ClientApp answered another message than it was given")
        except (Exception, SystemExit) as error:
            # The text may hold data: it stays here.
            self._say(f"the ClientApp failed: {type(error).__name__}: {error}")
        code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Message(Error(code, "the ClientApp failed at this site"), reply_to=message)

    def _persist(self, step: Callable[[], None]) -> bool:
        """Repeat a step while the server is out of reach; False if told to stop meanwhile."""
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                step()
            except UnreachableError as error:
                self._note_silence(error)
                if self._stop.wait(backoff * random.uniform(0.8, 1.2)):
                    return False
                backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
            else:
                self._silent_since = None
                return True

    def _note_silence(self, error: UnreachableError) -> None:
        if self._silent_since is None:
            self._silent_since = time.monotonic()
            self._say(f"waiting for {self._config.server}")
        limit = self._config.max_wait_seconds
        if limit is not None and time.monotonic() - self._silent_since >= limit:
            raise LinkError(
                f"{self._config.server}: no answer within {limit:g} s ({error}); "
                "check host name, port and firewall, and that the server runs"
            ) from error

    def _beat(self) -> None:
        """Keep the node online while its app works; leave as soon as told to stop when idle."""
        due = time.monotonic() + HEARTBEAT_SECONDS
        while not self._over.is_set():
            if self._stop.wait(1.0):
                if self._idle.is_set():
                    self._messages.leave()
                    return
                self._over.wait(1.0)  # The message in hand is finished first.
            if time.monotonic() >= due:
                self._messages.heartbeat()
                due = time.monotonic() + HEARTBEAT_SECONDS * random.uniform(0.8, 1.0)


def _public_file(private_key: Path) -> Path:
    """Guess where the public half of a key lies: NAME.pub beside NAME.key, or NAME.key.pub."""
    beside = private_key.with_suffix(".pub")
    return beside if beside.is_file() else private_key.with_name(private_key.name + ".pub")
