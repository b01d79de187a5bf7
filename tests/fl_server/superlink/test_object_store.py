"""Trees of objects are stored whole, and an object is what its name says."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fl_server.superlink.object_store import AtomicObjectStore, is_sound, object_ids

RUN = 7


def name(text):
    return hashlib.sha256(text.encode()).hexdigest()


def tree(root, *children):
    return ObjectTree(object_id=name(root), children=children)


def contents(record):
    return {i: value.deflate() for i, value in get_all_nested_objects(record).items()}


def test_object_ids_are_distinct_and_children_come_first():
    shared = tree("shared")
    whole = tree("root", tree("left", shared), tree("right", shared, tree("leaf")))
    expected = ["shared", "left", "leaf", "right", "root"]
    assert object_ids(whole) == [name(text) for text in expected]


def test_real_objects_are_sound():
    arrays = ArrayRecord({"w": Array(np.arange(4.0))})
    record = RecordDict({"arrays": arrays, "config": ConfigRecord({"a": 1})})
    stored = contents(record)
    assert list(stored) == object_ids(get_object_tree(record))
    for object_id, data in stored.items():
        assert object_id == hashlib.sha256(data).hexdigest()
        assert is_sound(object_id, data)


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1]])
def test_content_that_was_changed_is_not_sound(change):
    ((object_id, data),) = contents(ConfigRecord({"a": 1})).items()
    assert not is_sound(object_id, change(data))


@pytest.mark.parametrize("data", [b"", b"no object", b"\x00" * 64])
def test_content_without_the_form_of_an_object_is_not_sound(data):
    assert not is_sound(hashlib.sha256(data).hexdigest(), data)


def test_registering_a_tree_names_what_is_missing():
    store = AtomicObjectStore(verify=False)
    record = RecordDict({"config": ConfigRecord({"a": 1})})
    whole, stored = get_object_tree(record), contents(record)
    assert store.preregister(RUN, whole) == list(stored)
    child, root = stored
    store.put(child, stored[child])
    assert store.preregister(RUN, whole) == [root]
    store.put(root, stored[root])
    assert store.preregister(RUN, whole) == []
    assert store.get(child) == stored[child]


def test_shared_child_stays_until_its_last_parent_goes():
    store = AtomicObjectStore(verify=False)
    for parent in ("first", "second"):
        store.preregister(RUN, tree(parent, tree("shared")))
    store.delete(name("first"))
    assert name("shared") in store
    store.delete(name("second"))
    assert len(store) == 0


def test_nothing_is_deleted_while_a_tree_is_being_registered(monkeypatch):
    """A deletion that starts half way through waits for the tree, which keeps its child."""
    store = AtomicObjectStore(verify=False)
    store.preregister(RUN, tree("old", tree("shared")))
    deleter = threading.Thread(target=store.delete, args=(name("old"),))
    module = "flwr.supercore.object_store.in_memory_object_store.iterate_object_tree"

    def half_way(whole):
        yield from whole.children
        deleter.start()
        deleter.join(0.1)
        assert deleter.is_alive()
        yield whole

    monkeypatch.setattr(module, half_way)
    store.preregister(RUN, tree("new", tree("shared")))
    deleter.join(5)
    assert not deleter.is_alive()
    assert name("old") not in store
    assert store.get_object_tree(name("new")) == tree("new", tree("shared"))


def test_trees_registered_and_deleted_by_many_threads_leave_nothing():
    store = AtomicObjectStore(verify=False)

    def come_and_go(number):
        root = tree(f"root {number}", tree("shared", tree("leaf")))
        for _ in range(20):
            store.preregister(RUN, root)
            assert store.get_object_tree(root.object_id) == root
            store.delete(root.object_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(come_and_go, range(8)))
    assert len(store) == 0
