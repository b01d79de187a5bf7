"""The link state tells at once what becomes of an instruction, and of the node that has it."""

from __future__ import annotations

import hashlib
from queue import Empty, SimpleQueue
from threading import Thread

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from fl_server.superlink.link_state import MAX_DELIVERIES, WatchedLinkState
from fl_server.superlink.object_store import AtomicObjectStore

KEY = b"a public key"
HEARTBEAT = 30.0


class Link:
    """A link state with one run, and both sides of it without a network in between."""

    def __init__(self):
        self.store = AtomicObjectStore(verify=False)
        self.state = WatchedLinkState(NoOpFederationManager(), self.store)
        self.run_id = self.state.create_run(
            fab_id=None,
            fab_version=None,
            fab_hash=None,
            override_config={},
            federation_id=NOOP_FEDERATION_ID,
            federation_config=None,
            flwr_aid=None,
            primary_task_type=TaskType.SERVER_APP,
        )
        TaskIdentity.run_id = self.run_id
        self.outcomes = SimpleQueue()
        self.rung = []
        self.freed = []
        self.state.on_mail = self.rung.append
        self.state.on_space = lambda: self.freed.append(True)

    def join(self, key=KEY):
        """Register a node and switch it on."""
        node = self.state.create_node("owner", "owner", key, HEARTBEAT)
        assert self.state.activate_node(node, HEARTBEAT)
        self.rung.clear()
        return node

    def send(self, node, number=0):
        """Send an instruction whose fate goes to ``outcomes``; return its identifier."""
        message = self._whole(Message(content(number), node, "train"))
        objects = get_all_nested_objects(message)
        for object_id in self.store.preregister(self.run_id, get_object_tree(message)):
            self.store.put(object_id, objects[object_id].deflate())
        self.state.watch(message.metadata.message_id, self.outcomes)
        return self.state.store_message_ins(self._bare(message))

    def answer(self, instruction, number=100, upload=True):
        """Answer as a site does; return the upload's name and the objects still owed."""
        reply = self._whole(Message(content(number), reply_to=instruction))
        session = self.state.start_session(self.run_id)
        objects = get_all_nested_objects(reply)
        stored, missing = self.state.store_message_and_object_tree(
            self._bare(reply), get_object_tree(reply), session
        )
        assert stored
        owed = [(object_id, objects[object_id].deflate()) for object_id in missing]
        if upload:
            assert all(self.put(session, *item) for item in owed)
        return session, owed

    def put(self, session, object_id, data):
        return self.state.store_object(self.run_id, session, object_id, data)

    def take(self, node, **options):
        return self.state.get_message_ins(node, None, **options)

    def told(self):
        """Return what was reported since the last call."""
        found = []
        while True:
            try:
                found.append(self.outcomes.get_nowait())
            except Empty:
                return found

    @staticmethod
    def _whole(message):
        message.metadata.__dict__["_message_id"] = message.object_id
        return message

    @staticmethod
    def _bare(message):
        return make_message(metadata=message.metadata, content=RecordDict())


def content(number):
    return RecordDict({"config": ConfigRecord({"number": number})})


def ids(messages):
    return [message.metadata.message_id for message in messages]


@pytest.fixture
def link():
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.node_id = 1, 1
    yield Link()
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


# The life of an instruction


def test_instruction_rings_its_node_and_is_handed_out_once(link):
    node, other = link.join(), link.join(b"another key")
    first, second = link.send(node, 1), link.send(node, 2)
    assert link.rung == [node, node]
    assert (link.state.has_mail(node), link.state.has_mail(other)) == (True, False)
    assert link.take(other) == []
    messages = link.take(node)
    assert ids(messages) == [first, second]
    assert all(message.metadata.delivered_at for message in messages)
    assert not link.state.has_mail(node)
    assert link.take(node) == []


def test_instruction_sent_twice_waits_once(link):
    node = link.join()
    message = link._whole(Message(content(1), node, "train"))
    for _ in range(2):
        bare = link._bare(message)
        assert link.state.store_message_ins(bare) == message.metadata.message_id
    assert ids(link.take(node)) == [message.metadata.message_id]


def test_instruction_to_an_unknown_node_is_not_kept(link):
    link.join()
    assert link.send(4711) is None
    assert not link.state.has_mail(4711)
    assert link.state.num_message_ins() == 0


def test_limit_leaves_the_rest_in_the_box_in_order(link):
    node = link.join()
    sent = [link.send(node, number) for number in range(3)]
    assert ids(link.state.get_message_ins(node, 2)) == sent[:2]
    assert link.state.has_mail(node)
    assert ids(link.state.get_message_ins(node, 2)) == sent[2:]


def test_instruction_of_another_run_stays_in_the_box(link):
    node = link.join()
    sent = link.send(node)
    assert link.take(node, run_id=link.run_id + 1) == []
    assert ids(link.take(node, run_id=link.run_id)) == [sent]


def test_complete_reply_is_reported_once_and_is_there(link):
    node = link.join()
    sent = link.send(node)
    (instruction,) = link.take(node)
    _, owed = link.answer(instruction)
    assert len(owed) >= 2
    assert link.told() == [(sent, None)]
    metadata = link.state.reply_to(sent).metadata
    assert (metadata.reply_to_message_id, metadata.src_node_id) == (sent, node)


def test_reply_is_not_there_before_its_last_object(link):
    node = link.join()
    sent = link.send(node)
    session, owed = link.answer(link.take(node)[0], upload=False)
    for item in owed[:-1]:
        assert link.put(session, *item)
        assert link.told() == []
        assert link.state.reply_to(sent) is None
    assert link.put(session, *owed[-1])
    assert link.told() == [(sent, None)]
    assert link.state.reply_to(sent) is not None


def test_reply_whose_objects_are_all_known_is_reported_at_once(link):
    node = link.join()
    sent = link.send(node)
    (instruction,) = link.take(node)
    reply = link._whole(Message(content(5), reply_to=instruction))
    objects = get_all_nested_objects(reply)
    tree = get_object_tree(reply)
    for object_id in link.store.preregister(link.run_id, tree):
        link.store.put(object_id, objects[object_id].deflate())
    session = link.state.start_session(link.run_id)
    stored = link.state.store_message_and_object_tree(link._bare(reply), tree, session)
    assert stored == (True, [])
    assert link.told() == [(sent, None)]
    assert link.state.reply_to(sent) is not None


def test_garbled_object_is_refused_and_the_reply_reported_lost(link):
    node = link.join()
    sent = link.send(node)
    session, owed = link.answer(link.take(node)[0], upload=False)
    object_id, data = owed[0]
    assert not link.put(session, object_id, data + b"x")
    assert link.told() == [(sent, "its reply was garbled on the way")]
    assert link.store.get(object_id) == b""
    assert link.state.reply_to(sent) is None


def test_object_of_no_upload_is_refused_in_silence(link):
    node = link.join()
    link.send(node)
    _, owed = link.answer(link.take(node)[0], upload=False)
    assert not link.put("no such upload", *owed[0])
    assert link.told() == []


def test_object_after_the_uploads_time_is_refused_and_reported(link):
    node = link.join()
    sent = link.send(node)
    session, owed = link.answer(link.take(node)[0], upload=False)
    link.state._object_push_sessions[session].expires_at = now()
    assert not link.put(session, *owed[0])
    assert link.told() == [(sent, "the upload of its reply took too long")]
    assert link.state.num_message_res() == 0


def test_stored_object_can_be_read_back(link):
    node = link.join()
    link.send(node)
    _, owed = link.answer(link.take(node)[0])
    for object_id, data in owed:
        assert link.state.get_object(link.run_id, object_id) == data


def test_nobody_watching_is_no_error(link):
    node = link.join()
    sent = link.send(node)
    link.state._watchers.clear()
    link.answer(link.take(node)[0])
    assert link.told() == []
    assert link.state.reply_to(sent) is not None


# Withdrawing


@pytest.mark.parametrize("stage", ["waiting", "handed out", "half answered", "answered"])
def test_withdrawn_instruction_leaves_nothing_behind(link, stage):
    node = link.join()
    sent = link.send(node)
    if stage != "waiting":
        (instruction,) = link.take(node)
    if stage.endswith("answered"):
        link.answer(instruction, upload=stage == "answered")
    assert len(link.store) > 0
    link.freed.clear()
    link.state.withdraw([sent])
    assert link.freed == [True]
    assert (link.state.num_message_ins(), link.state.num_message_res()) == (0, 0)
    assert len(link.store) == 0
    assert not link.state.has_mail(node)
    assert link.state.reply_to(sent) is None
    assert link.state._object_push_sessions == {}


def test_withdrawn_instruction_is_no_longer_reported(link):
    node = link.join()
    sent = link.send(node)
    link.state.withdraw([sent])
    link.state.deactivate_node(node)
    link.state.sweep([sent])
    assert link.told() == []


def test_late_reply_to_a_withdrawn_instruction_is_refused(link):
    node = link.join()
    sent = link.send(node)
    (instruction,) = link.take(node)
    reply = link._whole(Message(content(1), reply_to=instruction))
    link.state.withdraw([sent])
    session = link.state.start_session(link.run_id)
    answer = link.state.store_message_and_object_tree(
        link._bare(reply), get_object_tree(reply), session
    )
    assert answer == (False, [])
    assert len(link.store) == 0
    assert link.told() == []


def test_withdrawing_one_instruction_keeps_the_content_it_shares(link):
    node, other = link.join(), link.join(b"another key")
    first, second = link.send(node, 7), link.send(other, 7)
    shared = len(link.store)
    link.state.withdraw([first])
    assert 0 < len(link.store) < shared
    (message,) = link.take(other)
    tree = link.store.get_object_tree(second)
    assert message.metadata.message_id == tree.object_id == second
    assert all(link.store.get(child.object_id) for child in tree.children)


def test_withdrawing_what_is_unknown_changes_nothing(link):
    node = link.join()
    sent = link.send(node)
    link.state.withdraw(["unknown"])
    assert ids(link.take(node)) == [sent]


# Handing out again


def test_site_that_asks_again_gets_it_again_and_not_for_ever(link):
    node = link.join()
    sent = link.send(node)
    for _ in range(MAX_DELIVERIES - 1):
        assert ids(link.take(node)) == [sent]
        link.state.reclaim(node)
        assert link.told() == []
    assert ids(link.take(node)) == [sent]
    link.state.reclaim(node)
    assert link.told() == [(sent, "the site could not take the message")]
    assert link.take(node) == []


def test_answered_instruction_and_those_of_others_are_not_handed_out_again(link):
    node, other = link.join(), link.join(b"another key")
    link.send(node, 1)
    link.send(other, 2)
    link.answer(link.take(node)[0])
    link.take(other)
    link.state.reclaim(node)
    assert (link.take(node), link.take(other)) == ([], [])


# What no event tells


def test_sweep_is_silent_while_everything_goes_on(link):
    node = link.join()
    sent = [link.send(node, 1), link.send(node, 2)]
    link.answer(link.take(node)[0], upload=False)
    link.state.sweep(sent)
    assert link.told() == []


def test_sweep_reports_a_reply_that_is_there_already(link):
    node = link.join()
    sent = link.send(node)
    link.answer(link.take(node)[0])
    link.told()
    link.state.sweep([sent])
    assert link.told() == [(sent, None)]


def test_sweep_reports_a_node_that_fell_silent(link):
    node, other = link.join(), link.join(b"another key")
    sent, kept = link.send(node), link.send(other)
    link.state.nodes[node].online_until = now().timestamp()
    link.state.sweep([sent, kept])
    assert link.told() == [(sent, "the site went away")]


def test_sweep_reports_an_upload_that_stopped(link):
    node = link.join()
    sent = link.send(node)
    session, _ = link.answer(link.take(node)[0], upload=False)
    link.state._object_push_sessions[session].expires_at = now()
    link.state.sweep([sent])
    assert link.told() == [(sent, "the upload of its reply stopped half way")]


def test_expired_instruction_is_not_handed_out_and_is_reported(link):
    node = link.join()
    sent = link.send(node)
    metadata = link.state.message_ins_store[sent].metadata
    metadata.ttl = now().timestamp() - metadata.created_at
    assert link.take(node) == []
    assert not link.state.has_mail(node)
    link.state.sweep([sent])
    assert link.told() == [(sent, "the message expired")]


# Nodes


def test_node_keeps_its_id_over_a_restart_of_the_server(link):
    expected = int.from_bytes(hashlib.sha256(KEY).digest()[:8], "little")
    for state in (link.state, Link().state):
        assert state.create_node("owner", "owner", KEY, HEARTBEAT) == expected
        assert state.get_node_id_by_public_key(KEY) == expected
        assert list(state.nodes) == [expected]
        assert state.nodes[expected].node_id == expected
        assert state.owner_to_node_ids == {"owner": {expected}}


def test_registered_node_is_not_online_before_it_is_activated(link):
    node = link.state.create_node("owner", "owner", KEY, HEARTBEAT)
    assert link.state.get_nodes(link.run_id) == set()
    assert link.state.activate_node(node, HEARTBEAT)
    assert link.state.get_nodes(link.run_id) == {node}
    assert link.state.deactivate_node(node)
    assert link.state.get_nodes(link.run_id) == set()


def test_node_that_leaves_loses_what_it_owed_but_no_complete_reply(link):
    node, other = link.join(), link.join(b"another key")
    answered, open_, foreign = link.send(node, 1), link.send(node, 2), link.send(other, 3)
    link.answer(link.take(node)[0])
    link.told()
    assert link.state.deactivate_node(node)
    assert link.told() == [(answered, None), (open_, "the site went away")]
    assert link.state.reply_to(answered) is not None
    assert ids(link.take(other)) == [foreign]


def test_restarted_node_loses_what_it_had_in_hand_and_keeps_its_mail(link):
    node = link.join()
    in_hand = link.send(node, 1)
    link.take(node)
    waiting = link.send(node, 2)
    assert link.state.activate_node(node, HEARTBEAT)
    assert link.told() == [(in_hand, "the site restarted before it answered")]
    assert link.state.get_nodes(link.run_id) == {node}
    assert ids(link.take(node)) == [waiting]


@pytest.mark.parametrize("change", ["activate_node", "deactivate_node"])
def test_unknown_node_cannot_come_or_go(link, change):
    arguments = (HEARTBEAT,) if change == "activate_node" else ()
    assert getattr(link.state, change)(4711, *arguments) is False
    assert link.state.nodes == {}


def test_heartbeat_rings_only_a_node_that_comes_back(link):
    node = link.join()
    assert link.state.acknowledge_node_heartbeat(node, HEARTBEAT)
    assert link.rung == []
    link.state.deactivate_node(node)
    link.rung.clear()
    assert link.state.acknowledge_node_heartbeat(node, HEARTBEAT)
    assert link.rung == [node]
    assert link.state.get_nodes(link.run_id) == {node}
    assert not link.state.acknowledge_node_heartbeat(4711, HEARTBEAT)
    assert link.rung == [node]


@pytest.mark.parametrize("change", ["joins", "leaves", "returns"])
def test_who_waits_for_nodes_is_woken(link, change):
    """The lock is ours until we wait, so that nothing but the notice can wake us."""
    node = link.state.create_node("owner", "owner", KEY, HEARTBEAT)
    if change != "joins":
        link.state.activate_node(node, HEARTBEAT)
    if change == "returns":
        link.state.deactivate_node(node)
    act = {
        "joins": lambda: link.state.activate_node(node, HEARTBEAT),
        "leaves": lambda: link.state.deactivate_node(node),
        "returns": lambda: link.state.acknowledge_node_heartbeat(node, HEARTBEAT),
    }[change]
    thread = Thread(target=act)
    with link.state.nodes_changed:
        thread.start()
        assert link.state.nodes_changed.wait(5)
    thread.join(5)
    assert not thread.is_alive()
    assert link.state.get_nodes(link.run_id) == (set() if change == "leaves" else {node})


def test_who_waits_for_a_reply_gets_it_from_another_thread(link):
    node = link.join()
    sent = link.send(node)
    (instruction,) = link.take(node)
    thread = Thread(target=link.answer, args=(instruction,))
    thread.start()
    assert link.outcomes.get(timeout=5) == (sent, None)
    thread.join(5)
    assert link.state.reply_to(sent) is not None
