"""Flower's content-addressed objects: storing a tree of them, and checking one."""

from __future__ import annotations

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_object_id,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore


class AtomicObjectStore(InMemoryObjectStore):
    """An object store that registers a whole tree at once.

    Flower registers it node by node; a deletion in between takes away a shared child whose
    parent is not yet counted.
    """

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Register a tree; return the objects whose content is missing."""
        with self.lock_store:
            return super().preregister(run_id, object_tree)


def is_sound(object_id: str, content: bytes) -> bool:
    """Check that content hashes to its id and has the form of a Flower object."""
    if get_object_id(content) != object_id:
        return False
    try:
        validate_object_content(content)
    except UnexpectedObjectContentError:
        return False
    return True


def object_ids(tree: ObjectTree) -> list[str]:
    """List the distinct objects of a tree, children first."""
    return list(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))
