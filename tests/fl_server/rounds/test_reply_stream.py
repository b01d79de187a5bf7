"""One line of replies on a grid that only knows how to send and wait."""

from __future__ import annotations

from flwr.app import Message, RecordDict

from fl_server.rounds.reply_stream import QueuedStream, open_stream
from tests.fl_server.rounds.fake_grid import FakeGrid


def test_replies_come_in_order_of_sending_and_only_when_read():
    grid = FakeGrid({node: lambda _: RecordDict() for node in (2, 3, 4)})
    stream = open_stream(grid)
    assert isinstance(stream, QueuedStream)
    assert not stream.concurrent
    stream.send([Message(RecordDict(), node, "train") for node in (3, 2)])
    stream.send([Message(RecordDict(), 4, "train")])
    assert grid.asked == []
    nodes = [stream.receive(0.0).metadata.src_node_id for _ in range(3)]
    assert nodes == [3, 2, 4]
    assert stream.receive(0.0) is None


def test_closed_stream_owes_nothing():
    stream = QueuedStream(FakeGrid({2: lambda _: RecordDict()}))
    stream.send([Message(RecordDict(), 2, "train")])
    stream.close()
    assert stream.receive(0.0) is None


def test_grid_with_a_stream_of_its_own_is_asked_for_it():
    grid = FakeGrid({})
    grid.stream = lambda: "its own"
    assert open_stream(grid) == "its own"
