"""Flower's in-memory link state, made observable: it says when something happens, at once.

Flower's own state is polled. This subclass calls back instead: when a reply is complete, when a
node goes or returns, when there is mail for a node. It also settles what Flower leaves open: a
site that is killed and comes back with the same key takes its node over, and what its former self
had in hand is reported as lost rather than waited for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NodeStatus
from flwr.supercore.date import now

from fl_server.superlink.object_store import AtomicObjectStore, is_sound

ReplyOutcome = tuple[str, str | None]
"""Identifier of an instruction, and why its reply will never come (None: it is here)."""

MAX_DELIVERIES = 3
"""How often an instruction is handed out again to a site that did not get hold of it."""


class WatchedLinkState(InMemoryLinkState):
    """Link state that reports arrivals, losses, mail and changes of nodes.

    Attributes
    ----------
    nodes_changed : threading.Condition
        Notified when a node comes or goes.
    on_mail : Callable[[int], None]
        Called with a node id when that node should look for mail. Called under locks: do no work.
    on_space : Callable[[], None]
        Called when a stored reply has been taken out.
    """

    def __init__(self, federation_manager: object, object_store: AtomicObjectStore) -> None:
        super().__init__(federation_manager, object_store)  # type: ignore[arg-type]
        self.nodes_changed = threading.Condition()
        self.on_mail: Callable[[int], None] = lambda _node: None
        self.on_space: Callable[[], None] = lambda: None
        self._watchers: dict[str, SimpleQueue[ReplyOutcome]] = {}
        self._inbox: dict[int, list[str]] = {}
        self._deliveries: dict[str, int] = {}

    # Watching replies

    def watch(self, message_id: str, outcomes: SimpleQueue[ReplyOutcome]) -> None:
        """Report the fate of an instruction to a queue, once it is known."""
        with self.lock:
            self._watchers[message_id] = outcomes

    def withdraw(self, message_ids: Iterable[str]) -> None:
        """Forget instructions and their replies, finished or not."""
        with self.lock:
            for message_id in message_ids:
                self._watchers.pop(message_id, None)
                self._deliveries.pop(message_id, None)
                reply_id = self.message_ins_id_to_message_res_id.get(message_id)
                if message := self.message_ins_store.get(message_id):
                    box = self._inbox.get(message.metadata.dst_node_id, [])
                    if message_id in box:
                        box.remove(message_id)
                self.delete_messages({message_id})
                self.object_store.delete(message_id)
                if reply_id is not None:
                    self._drop_upload(reply_id)
                    self.object_store.delete(reply_id)
        self.on_space()

    def reply_to(self, message_id: str) -> Message | None:
        """Return the stored reply (without content), if its upload is complete."""
        with self.lock, self._lock_object_push_sessions:
            reply_id = self.message_ins_id_to_message_res_id.get(message_id)
            if reply_id is None or reply_id in self._object_push_session_by_root:
                return None
            return self.message_res_store[reply_id]

    def sweep(self, message_ids: Iterable[str]) -> None:
        """Report what no event told: nodes that fell silent, uploads that stopped."""
        with self.lock:
            self._check_and_tag_offline_nodes()
            for message_id in list(message_ids):
                message = self.message_ins_store.get(message_id)
                if message is None:
                    self._report(message_id, "the message expired")
                elif self.reply_to(message_id) is not None:
                    self._report(message_id, None)
                elif not self._is_online(message.metadata.dst_node_id):
                    self._report(message_id, "the site went away")
                elif self._upload_expired(message_id):
                    self._report(message_id, "the upload of its reply stopped half way")

    def _report(self, message_id: str, loss: str | None) -> None:
        if (outcomes := self._watchers.get(message_id)) is not None:
            outcomes.put((message_id, loss))

    def _is_online(self, node_id: int) -> bool:
        node = self.nodes.get(node_id)
        return node is not None and node.status == NodeStatus.ONLINE

    def _upload_expired(self, message_id: str) -> bool:
        reply_id = self.message_ins_id_to_message_res_id.get(message_id, "")
        with self._lock_object_push_sessions:
            session_id = self._object_push_session_by_root.get(reply_id, "")
            session = self._object_push_sessions.get(session_id)
            return session is not None and session.expires_at <= now()

    def _drop_upload(self, reply_id: str) -> None:
        with self._lock_object_push_sessions:
            if session_id := self._object_push_session_by_root.get(reply_id):
                self._cleanup_push_session(session_id, cleanup_messages=False)

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Store a message; report a reply that needs no further object."""
        with self.lock:
            stored, missing = super().store_message_and_object_tree(
                message, object_tree, session_id
            )
            if not missing:
                self._cleanup_push_session(session_id, cleanup_messages=False)
            if stored and not missing and message.metadata.reply_to_message_id:
                self._report(message.metadata.reply_to_message_id, None)
            return stored, missing

    def store_object(
        self, run_id: int, session_id: str, object_id: str, object_content: bytes
    ) -> bool:
        """Store an object; report the reply that it completes, or that it spoils.

        The content is checked before any lock is taken: the object store does not check again.
        """
        sound = is_sound(object_id, object_content)
        with self.lock, self._lock_object_push_sessions:
            session = self._object_push_sessions.get(session_id)
            owed = self._owed_by(session.root_object_ids) if session is not None else []
            stored = sound and super().store_object(run_id, session_id, object_id, object_content)
            finished = session is not None and not session.pending_object_ids
            expired = session is not None and session_id not in self._object_push_sessions
            for message_id in owed:
                if not sound:
                    self._report(message_id, "its reply was garbled on the way")
                elif stored and finished:
                    self._report(message_id, None)
                elif not stored and expired:
                    self._report(message_id, "the upload of its reply took too long")
        return stored

    def get_object(self, run_id: int, object_id: str) -> bytes | None:
        """Return an object's content (locks in the one order that all methods use)."""
        with self.lock:
            return super().get_object(run_id, object_id)

    def _owed_by(self, reply_ids: Iterable[str]) -> list[str]:
        replies = [self.message_res_store.get(reply_id) for reply_id in reply_ids]
        return [reply.metadata.reply_to_message_id for reply in replies if reply is not None]

    # Mail

    def store_message_ins(self, message: Message) -> str | None:
        """Store an instruction and ring its node."""
        node_id = message.metadata.dst_node_id
        with self.lock:
            known = message.metadata.message_id in self.message_ins_store
            message_id = super().store_message_ins(message)
            if message_id is not None and not known:
                self._inbox.setdefault(node_id, []).append(message_id)
        self.on_mail(node_id)
        return message_id

    def has_mail(self, node_id: int) -> bool:
        """Tell whether an instruction waits for a node."""
        return bool(self._inbox.get(node_id))

    def get_message_ins(
        self, node_id: int, limit: int | None, *, run_id: int | None = None
    ) -> list[Message]:
        """Hand out a node's waiting instructions, without walking over everybody else's."""
        found: list[Message] = []
        with self.lock:
            box = self._inbox.get(node_id, [])
            self._check_stored_messages(set(box))
            for message_id in list(box):
                message = self.message_ins_store.get(message_id)
                if message is not None and run_id not in (None, message.metadata.run_id):
                    continue
                if limit is not None and len(found) == limit:
                    break
                box.remove(message_id)
                if message is not None:
                    message.metadata.delivered_at = now().isoformat()
                    found.append(message)
        return found

    def reclaim(self, node_id: int) -> None:
        """Put back what a site was given but evidently did not receive, as it asks again."""
        with self.lock:
            for message_id, message in self._in_hand(node_id):
                count = self._deliveries.get(message_id, 0) + 1
                self._deliveries[message_id] = count
                if count >= MAX_DELIVERIES:
                    self._report(message_id, "the site could not take the message")
                    continue
                message.metadata.delivered_at = ""
                self._inbox.setdefault(node_id, []).append(message_id)

    def _in_hand(self, node_id: int) -> list[tuple[str, Message]]:
        """List instructions that a node was given and has not answered completely."""
        return [
            (message_id, message)
            for message_id, message in self.message_ins_store.items()
            if message.metadata.dst_node_id == node_id
            and message.metadata.delivered_at != ""
            and self.reply_to(message_id) is None
        ]

    # Nodes

    def create_node(
        self,
        owner_aid: str,
        owner_name: str,
        public_key: bytes,
        heartbeat_interval: float,
        *,
        location: str | None = None,
        name: str | None = None,
    ) -> int:
        """Create a node whose id follows from its key, so that it survives a server restart."""
        with self.lock:
            drawn = super().create_node(
                owner_aid, owner_name, public_key, heartbeat_interval, location=location, name=name
            )
            stable = int.from_bytes(hashlib.sha256(public_key).digest()[:8], "little")
            if stable < 2 or stable in self.nodes:
                return drawn
            node = self.nodes.pop(drawn)
            node.node_id = stable
            self.nodes[stable] = node
            self.node_public_key_to_node_id[public_key] = stable
            self.owner_to_node_ids[owner_aid].discard(drawn)
            self.owner_to_node_ids[owner_aid].add(stable)
            return stable

    def activate_node(self, node_id: int, heartbeat_interval: float) -> bool:
        """Activate a node, also one that is still thought to be online."""
        with self.lock:
            super().deactivate_node(node_id)
            for message_id, _message in self._in_hand(node_id):
                self._report(message_id, "the site restarted before it answered")
            activated = super().activate_node(node_id, heartbeat_interval)
        self._tell_nodes(node_id)
        return activated

    def deactivate_node(self, node_id: int) -> bool:
        """Deactivate a node; what it owed is lost."""
        with self.lock:
            deactivated = super().deactivate_node(node_id)
            self.sweep(
                message_id
                for message_id, message in self.message_ins_store.items()
                if message.metadata.dst_node_id == node_id
            )
        self._tell_nodes(node_id)
        return deactivated

    def acknowledge_node_heartbeat(self, node_id: int, heartbeat_interval: float) -> bool:
        """Extend a node's time; tell when this brings it back."""
        with self.lock:
            was_online = self._is_online(node_id)
            known = super().acknowledge_node_heartbeat(node_id, heartbeat_interval)
        if known and not was_online:
            self._tell_nodes(node_id)
        return known

    def _tell_nodes(self, node_id: int) -> None:
        with self.nodes_changed:
            self.nodes_changed.notify_all()
        self.on_mail(node_id)
