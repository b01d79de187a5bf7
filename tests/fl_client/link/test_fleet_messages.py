"""Messages in and out of a site, with a Fleet API in the test's own hands; no socket."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fl_client.link import fleet_messages as module
from fl_client.link.fleet_http import FleetWire, RefusedError, UnknownNodeError, UnreachableError
from fl_client.link.fleet_messages import FleetMessages
from fl_common.errors import LinkError
from strategies.wire import fleet
from strategies.wire.records import pack_arrays, unpack_arrays

NODE = 77
REQUESTS = {
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "register-node": fleet_pb2.RegisterNodeFleetRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "push-object": message_pb2.PushObjectRequest,
}


def refusal(code):
    return httpx.Response(400, json={"code": int(code), "detail": "no"})


class Server:
    """The Fleet API of one server, with one message to give and one place for a reply."""

    def __init__(self, *, batches=True):
        self.batches = batches
        self.calls: list[str] = []
        self.headers: dict[str, httpx.Headers] = {}
        self.waiting: Message | None = None
        self.objects: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.pushed: list[list[str]] = []
        self.asked: list[object] = []
        self.answers: dict[str, list[httpx.Response]] = {}
        self.pull_first: list[message_pb2.PullObjectResponse] = []
        self.stores = True

    def offer(self, message):
        self.waiting = message
        self.objects = {i: o.deflate() for i, o in get_all_nested_objects(message).items()}

    def handle(self, request):
        path = request.url.path
        name = path.rpartition("/")[2]
        self.calls.append(name)
        self.headers[name] = request.headers
        if self.answers.get(name):
            return self.answers[name].pop(0)
        offer = {fleet.OFFER_HEADER: "1"} if self.batches else {}
        if path == fleet.PULL_PATH:
            wanted = fleet.unpack_ids(request.content)
            body = b"".join(fleet.frame(self.objects.get(i)) for i in wanted)
        elif path == fleet.PUSH_PATH:
            objects = dict(fleet.unpack_objects(request.content))
            self.pushed.append(list(objects))
            self.stored |= objects
            body = b""
        else:
            asked = REQUESTS[name].FromString(request.content)
            self.asked.append(asked)
            body = self.answer(name, asked).SerializeToString()
        return httpx.Response(200, content=body, headers=offer)

    def answer(self, name, asked):
        if name == "activate-node":
            return fleet_pb2.ActivateNodeResponse(node_id=NODE)
        if name == "pull-messages" and self.waiting is not None:
            message, self.waiting = self.waiting, None
            return fleet_pb2.PullMessagesResponse(
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
            )
        if name == "pull-object":
            if self.pull_first:
                return self.pull_first.pop(0)
            content = self.objects.get(asked.object_id)
            return message_pb2.PullObjectResponse(
                object_found=content is not None,
                object_available=content is not None,
                object_content=content or b"",
            )
        if name == "push-messages":
            tree = asked.message_object_trees[0]
            ids = [node.object_id for node in module.iterate_object_tree(tree)]
            return fleet_pb2.PushMessagesResponse(
                objects_to_push=[i for i in ids if i not in self.stored], session_id="upload-1"
            )
        if name == "push-object":
            if self.stores:
                self.stored[asked.object_id] = asked.object_content
                self.pushed.append([asked.object_id])
            return message_pb2.PushObjectResponse(stored=self.stores)
        return silent(name)


def silent(name):
    """An answer that says nothing."""
    return {
        "register-node": fleet_pb2.RegisterNodeFleetResponse,
        "deactivate-node": fleet_pb2.DeactivateNodeResponse,
        "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatResponse,
        "pull-messages": fleet_pb2.PullMessagesResponse,
        "confirm-message-received": message_pb2.ConfirmMessageReceivedResponse,
    }[name]()


@pytest.fixture
def link(monkeypatch):
    """Messages over a wire that ends at a server of the test: ``link(server)``."""
    wires = []

    def make(server):
        wire = FleetWire("127.0.0.1:1", ca=None, insecure=True, private_key=None)
        wire._http.close()
        transport = httpx.MockTransport(server.handle)
        wire._http = httpx.Client(base_url="http://127.0.0.1:1", transport=transport)
        wires.append(wire)
        return FleetMessages(wire)

    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    yield make
    for wire in wires:
        wire.close()


@pytest.fixture(params=[True, False], ids=["ours", "flowers"])
def server(request):
    """A server of ours, which offers batches, and Flower's own, which does not."""
    return Server(batches=request.param)


WEIGHTS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([np.pi])}


def question(**config):
    content = RecordDict({"arrays": pack_arrays(WEIGHTS)})
    content["config"] = ConfigRecord({"job": "j", **config})
    message = Message(content, NODE, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def assert_weights(record: ArrayRecord, weights=WEIGHTS):
    for name, array in unpack_arrays(record).items():
        np.testing.assert_array_equal(array, weights[name])
    assert record.keys() == weights.keys()


def test_join_takes_the_node_id_that_the_server_gives(server, link):
    messages = link(server)
    assert messages.node_id == 0
    messages.join()
    assert messages.node_id == NODE
    assert server.calls == ["activate-node"]
    assert server.asked[0].heartbeat_interval == module.HEARTBEAT_INTERVAL_SECONDS
    assert server.asked[0].public_key


NOT_ENROLLED = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED


def test_join_registers_where_the_server_does_not_know_the_key(server, link):
    server.answers["activate-node"] = [refusal(NOT_ENROLLED)]
    messages = link(server)
    messages.join()
    assert server.calls == ["activate-node", "register-node", "activate-node"]
    assert server.asked[0].public_key == server.asked[1].public_key
    assert messages.node_id == NODE


def test_join_goes_on_where_the_key_was_registered_before(server, link):
    server.answers["activate-node"] = [refusal(NOT_ENROLLED)]
    server.answers["register-node"] = [refusal(ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE)]
    messages = link(server)
    messages.join()
    assert messages.node_id == NODE


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({"activate-node": [refusal(4711)]}, 4711),
        ({"activate-node": [refusal(NOT_ENROLLED)], "register-node": [refusal(4712)]}, 4712),
        ({"activate-node": [refusal(NOT_ENROLLED)] * 2}, int(NOT_ENROLLED)),
    ],
)
def test_join_that_is_refused_says_the_code(link, answers, code):
    server = Server()
    server.answers = {name: list(replies) for name, replies in answers.items()}
    with pytest.raises(RefusedError) as refused:
        link(server).join()
    assert refused.value.code == code


def test_leave_and_heartbeat_before_joining_ask_nothing(link):
    server = Server()
    messages = link(server)
    messages.heartbeat()
    messages.leave()
    assert server.calls == []


def test_heartbeat_names_the_node_and_leave_is_said_once(link):
    server = Server()
    messages = link(server)
    messages.join()
    messages.heartbeat()
    for _ in range(2):
        messages.leave()
    messages.heartbeat()
    assert server.calls == ["activate-node", "send-node-heartbeat", "deactivate-node"]
    assert server.asked[1].node.node_id == NODE
    assert server.asked[2].node_id == NODE


@pytest.mark.parametrize(
    "answer", [httpx.Response(503), httpx.Response(401), refusal(1), httpx.Response(404)]
)
@pytest.mark.parametrize("name", ["send-node-heartbeat", "deactivate-node"])
def test_heartbeat_and_leave_bear_any_answer(link, name, answer):
    server = Server()
    server.answers[name] = [answer]
    messages = link(server)
    messages.join()
    messages.heartbeat()
    messages.leave()
    assert server.calls == ["activate-node", "send-node-heartbeat", "deactivate-node"]
    assert server.answers[name] == []


def test_message_arrives_whole(server, link):
    sent = question(note="hello")
    server.offer(sent)
    messages = link(server)
    messages.join()

    message = messages.receive(20.0)

    assert_weights(message.content["arrays"])
    assert dict(message.content["config"]) == {"job": "j", "note": "hello"}
    assert message.metadata.message_id == sent.object_id == message.object_id
    assert message.metadata.message_type == "train"
    assert messages.receive(20.0) is None


def test_objects_come_at_once_from_our_server_and_one_by_one_from_flowers(server, link):
    server.offer(question())
    count = len(server.objects)
    messages = link(server)
    messages.join()
    messages.receive(20.0)
    fetched = server.calls[2:]
    if server.batches:
        assert fetched == ["pull-objects"]
        assert server.headers["pull-messages"][fleet.WAIT_HEADER] == "20.0"
        assert server.headers["pull-objects"][fleet.RUN_HEADER] == "7"
    else:
        assert fetched == ["pull-object"] * count + ["confirm-message-received"]
        assert fleet.WAIT_HEADER not in server.headers["pull-messages"]


def test_message_that_was_withdrawn_is_none(server, link):
    server.offer(question())
    server.objects.pop(next(iter(server.objects)))
    messages = link(server)
    messages.join()
    assert messages.receive(0.0) is None


@pytest.mark.parametrize("name", ["pull-objects", "pull-object"])
def test_message_whose_objects_are_refused_is_none(link, name):
    server = Server(batches=name == "pull-objects")
    server.offer(question())
    server.answers[name] = [refusal(410)]
    messages = link(server)
    messages.join()
    assert messages.receive(0.0) is None
    assert server.answers[name] == []


def test_object_that_is_not_there_yet_is_asked_for_again(link):
    server = Server(batches=False)
    server.offer(question())
    soon = message_pb2.PullObjectResponse(object_found=True, object_available=False)
    server.pull_first = [soon, soon]
    messages = link(server)
    messages.join()
    assert_weights(messages.receive(0.0).content["arrays"])
    assert server.calls.count("pull-object") == len(server.objects) + 2


def test_object_that_never_comes_ends_the_patience(link, monkeypatch):
    server = Server(batches=False)
    server.offer(question())
    monkeypatch.setattr(module, "_OBJECT_PATIENCE_SECONDS", -1.0)
    soon = message_pb2.PullObjectResponse(object_found=True, object_available=False)
    server.pull_first = [soon]
    messages = link(server)
    messages.join()
    assert messages.receive(0.0) is None
    assert server.pull_first == []


def test_object_that_arrives_changed_is_told(server, link):
    server.offer(question())
    last = list(server.objects)[-1]
    server.objects[last] += b"x"
    messages = link(server)
    messages.join()
    with pytest.raises(LinkError, match=r"127\.0\.0\.1:1: an object arrived changed"):
        messages.receive(0.0)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(5), UnreachableError),  # the server is up and not ready: wait
        (httpx.Response(503), UnreachableError),
        (httpx.Response(401), UnknownNodeError),
    ],
)
def test_polling_that_fails_says_what_to_do(link, answer, error):
    server = Server()
    server.answers["pull-messages"] = [answer]
    messages = link(server)
    messages.join()
    with pytest.raises(error):
        messages.receive(0.0)


def reply_to(message, value=1.0):
    content = RecordDict({"arrays": pack_arrays({"w": np.full((2, 3), value)})})
    return Message(content, reply_to=message)


def test_reply_arrives_whole(server, link):
    messages = link(server)
    messages.join()
    reply = reply_to(question())

    messages.send(reply)

    expected = {i: o.deflate() for i, o in get_all_nested_objects(reply).items()}
    assert server.stored == expected
    envelope = server.asked[1].messages_list[0]
    assert envelope.metadata.message_id == reply.object_id
    assert not envelope.HasField("content") or not envelope.content.items
    assert server.asked[1].node.node_id == NODE
    if server.batches:
        assert server.calls == ["activate-node", "push-messages", "push-objects"]
        assert server.headers["push-objects"][fleet.UPLOAD_HEADER] == "upload-1"
    else:
        assert server.calls[2:] == ["push-object"] * len(expected)
        assert {asked.session_id for asked in server.asked[2:]} == {"upload-1"}


def test_repeated_reply_sends_only_what_is_missing(server, link):
    messages = link(server)
    messages.join()
    reply = reply_to(question())
    messages.send(reply)
    whole = dict(server.stored)
    lost = sorted(whole)[0]
    del server.stored[lost]
    server.pushed.clear()
    messages.send(reply)
    assert server.pushed == [[lost]]
    assert server.stored == whole


@pytest.mark.parametrize("name", ["push-messages", "push-objects", "push-object"])
def test_reply_that_nobody_waits_for_is_dropped(link, name):
    server = Server(batches=name != "push-object")
    server.answers[name] = [refusal(410)]
    messages = link(server)
    messages.join()
    messages.send(reply_to(question()))
    assert server.answers[name] == []
    assert server.stored == {}


def test_reply_whose_object_is_not_stored_is_given_up(link):
    server = Server(batches=False)
    server.stores = False
    messages = link(server)
    messages.join()
    messages.send(reply_to(question()))
    assert server.calls.count("push-object") == 1


def test_interrupted_reply_is_for_the_caller_to_repeat(server, link):
    name = "push-objects" if server.batches else "push-object"
    server.answers[name] = [httpx.Response(503)]
    messages = link(server)
    messages.join()
    reply = reply_to(question())
    with pytest.raises(UnreachableError):
        messages.send(reply)
    messages.send(reply)
    assert server.stored.keys() == get_all_nested_objects(reply).keys()


def test_batches_are_full_but_fit_in_a_request():
    sizes = [1] * (fleet.BATCH_OBJECTS + 1) + [fleet.BATCH_BYTES - 1, 1, 1, fleet.BATCH_BYTES + 5]
    contents = [(str(number), bytes(size)) for number, size in enumerate(sizes)]
    batches = list(module._batches(iter(contents)))
    assert [len(batch) for batch in batches] == [fleet.BATCH_OBJECTS, 2, 2, 1]
    assert [pair for batch in batches for pair in batch] == contents
    assert list(module._batches([])) == []
