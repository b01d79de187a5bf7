"""A Flower Grid that hands over each reply as it arrives.

It works on the link state in this process, without a socket in between, and waits on events.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable
from queue import Empty, SimpleQueue
from typing import cast

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run

from fl_server.superlink.link_state import ReplyOutcome, WatchedLinkState
from fl_server.superlink.object_store import object_ids

SWEEP_SECONDS = 1.0
"""How long a node's silence or an expired upload may go unnoticed; all else is an event."""


class StreamingGrid(Grid):
    """Grid over an in-process link state.

    Parameters
    ----------
    state : WatchedLinkState
        The link state that the Fleet API serves.
    run : Run
        The run that messages belong to.
    address : str (default: "")
        Where the Fleet API listens, `host:port`.
    """

    def __init__(self, state: WatchedLinkState, run: Run, address: str = "") -> None:
        self.address = address
        self._state = state
        self._run = run

    def set_run(self, run: Run) -> None:
        """Set the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """Return a copy of the run's record."""
        return Run(**vars(self._run))

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; prefer Flower's `Message` constructor."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of the nodes that are online, in ascending order."""
        return sorted(self._state.get_nodes(self._run.run_id))

    def get_nodes(self) -> list[NodeInfo]:
        """Return Flower's records of the nodes that are online."""
        infos = self._state.get_node_info(node_ids=self.get_node_ids())
        return [NodeInfo.FromString(info.SerializeToString()) for info in infos]

    def wait_for_nodes(self, num_nodes: int, timeout: float) -> list[int]:
        """Wait until enough nodes are online.

        Parameters
        ----------
        num_nodes : int
            How many nodes to wait for.
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        list[int]
            The ids of the nodes online now: fewer than asked for when the time ran out.
        """
        end = time.monotonic() + timeout
        with self._state.nodes_changed:
            while True:
                node_ids = self.get_node_ids()
                remaining = end - time.monotonic()
                if len(node_ids) >= num_nodes or remaining <= 0:
                    return node_ids
                self._state.nodes_changed.wait(min(remaining, SWEEP_SECONDS))

    def wait_for_change(self, timeout: float) -> None:
        """Wait until a node goes online or offline, for ``timeout`` seconds at most."""
        with self._state.nodes_changed:
            self._state.nodes_changed.wait(timeout)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages.

        Content that several messages share is serialized and stored once.

        Returns
        -------
        list[str]
            One id for each message; empty where the node is unknown.
        """
        with no_object_id_recompute():
            prepared = [self._prepare(message) for message in self._with_ids(messages)]
        # Visible to the sites only now: none can take away content that a later message shares.
        message_ids = []
        for message in prepared:
            known = message.metadata.dst_node_id in self._state.nodes
            message_id = self._state.store_message_ins(message) if known else None
            if message_id is None:
                self._state.withdraw([message.metadata.message_id])
            message_ids.append(message_id or "")
        return message_ids

    @staticmethod
    def _with_ids(messages: Iterable[Message]) -> list[Message]:
        listed = list(messages)
        for message in listed:
            message.metadata.__dict__["_message_id"] = message.object_id
        return listed

    def _prepare(self, message: Message) -> Message:
        """Store a message's objects; return it without content."""
        store = self._state.object_store
        tree = get_object_tree(message)
        missing = set(store.preregister(self._run.run_id, tree))
        if missing:
            objects: dict[str, InflatableObject] = get_all_nested_objects(message)
            for object_id in missing:
                store.put(object_id, objects[object_id].deflate())
        return make_message(metadata=message.metadata, content=RecordDict())

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Take the replies that are complete by now."""
        known = self._state.message_ins_store
        ready = {i: known[i].metadata for i in message_ids if self._state.reply_to(i) is not None}
        return [self._take(message_id, owed) for message_id, owed in ready.items()]

    def stream(self) -> OpenStream:
        """Return a line of replies to whatever is sent through it, at any time."""
        return OpenStream(self)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Generator[Message, None, None]:
        """Send messages and yield each reply as it arrives.

        The time runs from this call. At its end, or when the generator is closed, what is still
        open is withdrawn: a late reply is refused at the door and costs no memory.

        Parameters
        ----------
        messages : Iterable[Message]
            What to send; messages may share their content.
        timeout : float, optional
            Seconds to wait for replies; None waits until every site answered or went away.

        Yields
        ------
        Message
            A reply, or a message with an error for a site that went away, restarted, or sent
            something unreadable.
        """
        end = None if timeout is None else time.monotonic() + timeout
        stream = self.stream()
        stream.send(messages)
        replies = self._replies(stream, end)
        next(replies)  # Runs up to its first bare yield, so that closing it always cleans up.
        return cast(Generator[Message, None, None], replies)

    @staticmethod
    def _replies(stream: OpenStream, end: float | None) -> Generator[Message | None, None, None]:
        try:
            yield None
            while True:
                left = math.inf if end is None else end - time.monotonic()
                reply = stream.receive(left)
                if reply is None:
                    return
                yield reply
                del reply  # or two replies are in memory while the next one arrives
        finally:
            stream.close()

    def _take(self, message_id: str, owed: Metadata) -> Message:
        """Remove a complete reply from the state and rebuild it.

        Its metadata are those that the server checked, not those inside the site's object.
        """
        state = self._state
        try:
            stored = state.reply_to(message_id)
            if stored is None:
                raise LookupError(message_id)
            metadata = stored.metadata
            tree = state.object_store.get_object_tree(metadata.message_id)
            contents = {i: state.object_store.get(i) or b"" for i in object_ids(tree)}
            state.withdraw([message_id])
            reply = cast(Message, inflate_object_from_contents(metadata.message_id, contents))
            if reply.has_error():
                return make_message(metadata=metadata, error=reply.error)
            return make_message(metadata=metadata, content=reply.content)
        except Exception as error:  # A site may send anything; it must cost its own reply only.
            state.withdraw([message_id])
            return _lost(owed, f"its reply cannot be read ({type(error).__name__})")


class OpenStream:
    """Replies to messages sent at different times, as they arrive (``ReplyStream``)."""

    concurrent = True

    def __init__(self, grid: StreamingGrid) -> None:
        self._grid = grid
        self._state = grid._state
        self._outcomes: SimpleQueue[ReplyOutcome] = SimpleQueue()
        self._pending: dict[str, Metadata] = {}
        self._unknown: list[Metadata] = []

    def send(self, messages: Iterable[Message]) -> None:
        """Send further messages, without waiting."""
        listed = list(messages)
        sent = []
        for message, message_id in zip(listed, self._grid.push_messages(listed), strict=True):
            if message_id:
                self._pending[message_id] = message.metadata
                self._state.watch(message_id, self._outcomes)
                sent.append(message_id)
            else:
                self._unknown.append(message.metadata)
        self._state.sweep(sent)

    def receive(self, timeout: float) -> Message | None:
        """Return the next reply or error; None when the time is over or nothing is owed."""
        if self._unknown:
            return _lost(self._unknown.pop(0), "the site is not known to this server")
        end = time.monotonic() + timeout
        while self._pending:
            outcome = self._next_outcome(end)
            if outcome is None:
                return None
            message_id, loss = outcome
            owed = self._pending.pop(message_id, None)
            if owed is None:
                continue
            if loss is None:
                return self._grid._take(message_id, owed)
            self._state.withdraw([message_id])
            return _lost(owed, loss)
        return None

    def close(self) -> None:
        """Withdraw what is open: a late reply is refused at the door and costs no memory."""
        self._state.withdraw(list(self._pending))
        self._pending.clear()

    def _next_outcome(self, end: float) -> ReplyOutcome | None:
        """Wait for the next outcome; None when the time is over."""
        while True:
            remaining = end - time.monotonic()
            try:
                if remaining <= 0:
                    return self._outcomes.get_nowait()
                return self._outcomes.get(timeout=min(remaining, SWEEP_SECONDS))
            except Empty:
                if remaining <= 0:
                    return None
                self._state.sweep(self._pending)


def _lost(owed: Metadata, reason: str) -> Message:
    """Build the error that stands for a reply which cannot come, in the site's name."""
    created_at = now().timestamp()
    metadata = Metadata(
        run_id=owed.run_id,
        message_id="",
        src_node_id=owed.dst_node_id,
        dst_node_id=owed.src_node_id,
        reply_to_message_id=owed.message_id,
        group_id=owed.group_id,
        created_at=created_at,
        ttl=max(owed.ttl - (created_at - owed.created_at), 0.0),
        message_type=owed.message_type,
    )
    return make_message(metadata=metadata, error=Error(ErrorCode.NODE_UNAVAILABLE, reason))
