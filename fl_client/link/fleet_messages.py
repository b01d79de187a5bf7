"""Messages in and out: joining, polling, fetching a message's objects, sending a reply's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import cast

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
    RegisterNodeFleetRequest,
    RegisterNodeFleetResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fl_client.link.fleet_http import (
    FleetWire,
    RefusedError,
    UnknownNodeError,
    UnreachableError,
)
from fl_common.errors import LinkError
from strategies.wire.fleet import BATCH_BYTES, BATCH_OBJECTS

HEARTBEAT_INTERVAL_SECONDS = 15.0
"""Told to the server, which gives a node up after two of them without a heartbeat."""

_OBJECT_PATIENCE_SECONDS = 60.0


class FleetMessages:
    """Messages to and from one server, for one node.

    Parameters
    ----------
    wire : FleetWire
        The requests.

    Attributes
    ----------
    node_id : int
        Given by the server on joining; 0 before.
    """

    def __init__(self, wire: FleetWire) -> None:
        self.node_id = 0
        self._wire = wire
        self._leaving = threading.Lock()
        self._joined = False

    def join(self) -> None:
        """Activate this node, after registering its key where the server asks for it.

        Raises
        ------
        RefusedError
            The key is not enrolled and the server registers nobody.
        """
        try:
            self._activate()
        except RefusedError as refusal:
            if refusal.code != ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
                raise
            request = RegisterNodeFleetRequest(public_key=self._wire.public_key)
            try:
                self._wire.call("register-node", request, RegisterNodeFleetResponse)
            except RefusedError as second:
                if second.code != ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                    raise
            self._activate()

    def _activate(self) -> None:
        response = self._wire.call(
            "activate-node",
            ActivateNodeRequest(
                public_key=self._wire.public_key, heartbeat_interval=HEARTBEAT_INTERVAL_SECONDS
            ),
            ActivateNodeResponse,
            timeout_seconds=10.0,
        )
        self.node_id = response.node_id
        self._joined = True

    def leave(self) -> None:
        """Tell the server that this node goes; do nothing if it does not listen."""
        with self._leaving:
            if not self._joined:
                return
            self._joined = False
        with suppress(UnreachableError, UnknownNodeError, RefusedError, LinkError):
            self._wire.call(
                "deactivate-node",
                DeactivateNodeRequest(node_id=self.node_id),
                DeactivateNodeResponse,
                timeout_seconds=5.0,
            )

    def heartbeat(self) -> None:
        """Tell the server that this node lives; the next request shows whether it knows us."""
        if not self._joined:
            return
        with suppress(UnreachableError, UnknownNodeError, RefusedError, LinkError):
            self._wire.call(
                "send-node-heartbeat",
                SendNodeHeartbeatRequest(
                    node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_SECONDS
                ),
                SendNodeHeartbeatResponse,
                timeout_seconds=5.0,
            )

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    def receive(self, wait_seconds: float) -> Message | None:
        """Fetch the next message, complete; None if there is none or it was withdrawn."""
        try:
            response = self._wire.call(
                "pull-messages",
                PullMessagesRequest(node=self._node),
                PullMessagesResponse,
                wait_seconds=wait_seconds if self._wire.offers_batches else 0.0,
            )
        except RefusedError as refusal:
            raise UnreachableError(str(refusal)) from refusal
        if not response.messages_list:
            return None
        run_id = response.messages_list[0].metadata.run_id
        tree = response.message_object_trees[0]
        try:
            contents = self._fetch(run_id, tree)
        except RefusedError:
            return None
        if any(node.object_id not in contents for node in iterate_object_tree(tree)):
            return None
        if any(get_object_id(content) != object_id for object_id, content in contents.items()):
            raise LinkError(f"{self._wire.server}: an object arrived changed; is a proxy at work?")
        message = cast(Message, inflate_object_from_contents(tree.object_id, contents))
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _fetch(self, run_id: int, tree: ObjectTree) -> dict[str, bytes]:
        """Fetch the objects of a tree that the server has."""
        object_ids = list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
        if self._wire.offers_batches:
            return dict(self._wire.pull_batch(run_id, object_ids))
        contents = {i: c for i in object_ids if (c := self._fetch_one(run_id, i)) is not None}
        self._wire.call(
            "confirm-message-received",
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=run_id, message_object_id=tree.object_id
            ),
            ConfirmMessageReceivedResponse,
        )
        return contents

    def _fetch_one(self, run_id: int, object_id: str) -> bytes | None:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
        end = time.monotonic() + _OBJECT_PATIENCE_SECONDS
        while True:
            response = self._wire.call("pull-object", request, PullObjectResponse)
            if response.object_available:
                return response.object_content
            if not response.object_found or time.monotonic() > end:
                return None
            time.sleep(0.05)

    def send(self, reply: Message) -> None:
        """Send a reply, complete; a reply that nobody waits for any more is dropped.

        Repeating it after an interruption sends only what is missing.
        """
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            try:
                self._send(reply, get_object_tree(reply))
            except RefusedError:
                return

    def _send(self, reply: Message, tree: ObjectTree) -> None:
        response = self._wire.call(
            "push-messages",
            PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
            ),
            PushMessagesResponse,
        )
        missing = set(response.objects_to_push)
        run_id, upload = reply.metadata.run_id, response.session_id
        objects = get_all_nested_objects(reply)
        contents = ((i, objects[i].deflate()) for i in objects if i in missing)
        for batch in _batches(contents):
            if self._wire.offers_batches:
                self._wire.push_batch(run_id, upload, batch)
                continue
            for object_id, content in batch:
                self._send_one(run_id, upload, object_id, content)

    def _send_one(self, run_id: int, upload: str, object_id: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node,
            run_id=run_id,
            object_id=object_id,
            object_content=content,
            session_id=upload,
        )
        if not self._wire.call("push-object", request, PushObjectResponse).stored:
            raise RefusedError(410)


def _batches(contents: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Group objects so that each group is worth a request and fits in one."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for object_id, content in contents:
        if batch and (len(batch) == BATCH_OBJECTS or size + len(content) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((object_id, content))
        size += len(content)
    if batch:
        yield batch
