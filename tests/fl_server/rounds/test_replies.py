"""Asking sites: who is asked again, what is recorded, and which reply is handed on."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict

from fl_common.errors import ReplyError
from fl_server.rounds.replies import MAX_ATTEMPTS, ReplyCollector
from fl_server.rounds.reply_validation import CheckedReply
from fl_server.rounds.sites import Site
from strategies.wire.records import pack_arrays
from strategies.wire.refusal import Refusal
from tests.fl_server.rounds.fake_grid import GONE, FakeGrid, federation_of, site

CONTENT = RecordDict({"arrays": pack_arrays({"w": np.zeros(8)})})
ANSWER = RecordDict({"metrics": MetricRecord({"n": 1}), "arrays": pack_arrays({"w": np.zeros(2)})})


def accept(_site, _reply):
    return CheckedReply(7, loss=0.5, epsilon=2.0)


def collected(answers, *, check=accept, **options):
    """Ask one site per answer; return the collector and the replies handed on."""
    sites = [site(f"site_{node}", node) for node in answers]
    grid = FakeGrid(answers)
    collector = ReplyCollector(federation_of(grid, *sites, **options), "train")
    messages = [Message(CONTENT, node, "train") for node in answers]
    replies = list(collector.collect(messages, check))
    return collector, replies, grid


def test_reply_that_passes_is_handed_on_and_recorded():
    collector, replies, _ = collected({2: lambda _: ANSWER})
    assert len(replies) == collector.num_accepted == 1
    record = collector.records["site_2"]
    assert (record.status, record.num_examples, record.loss, record.epsilon) == ("ok", 7, 0.5, 2.0)
    assert record.bytes_down > record.bytes_up > 0
    assert record.phase == "train"


def test_reply_that_fails_its_check_is_refused_with_the_reason():
    def check(asked, _reply):
        if asked.name == "site_2":
            raise ReplyError("odd")
        return CheckedReply(1)

    answers = {2: lambda _: ANSWER, 3: lambda _: ANSWER}
    collector, replies, _ = collected(answers, check=check)
    assert [reply.metadata.src_node_id for reply in replies] == [3]
    assert collector.records["site_2"].status == "refused"
    assert collector.records["site_2"].reason == "odd"
    assert collector.records["site_2"].bytes_up > 0
    assert collector.num_accepted == 1


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (Error(Refusal.DIVERGED.code, ""), "diverged", Refusal.DIVERGED.text),
        (Error(Refusal.POLICY.code, "secret"), "failed", Refusal.POLICY.text),
        (Error(0, "odd"), "failed", "Flower error 0"),
        (GONE, "absent", "dropped out"),
    ],
)
def test_error_is_recorded_by_its_code_only(error, status, says):
    collector, replies, _ = collected({2: lambda _: error})
    assert not replies
    assert collector.records["site_2"].status == status
    assert says in collector.records["site_2"].reason
    assert "secret" not in collector.records["site_2"].reason


def test_site_without_a_reply_is_absent_while_there_is_time_and_late_after_it():
    collector, _, _ = collected({2: lambda _: None})
    assert collector.records["site_2"].status == "absent"
    collector, _, _ = collected({2: lambda _: None}, reply_seconds=1e-9)
    assert collector.records["site_2"].reason == "no reply in time"


def test_site_that_comes_back_in_time_is_asked_again():
    answers = iter([GONE, ANSWER])
    collector, replies, grid = collected({2: lambda _: next(answers)}, rejoin_seconds=5.0)
    assert len(replies) == 1
    assert grid.asked == [(2, "train")] * 2
    assert collector.records["site_2"].status == "ok"


def test_site_is_not_asked_for_ever():
    _, replies, grid = collected({2: lambda _: GONE}, rejoin_seconds=5.0)
    assert not replies
    assert len(grid.asked) == 1 + MAX_ATTEMPTS


def test_site_is_asked_at_its_new_node():
    sites = [site("a", 2)]
    grid = FakeGrid({2: lambda _: GONE})

    def refresh():
        grid.answers = {9: lambda _: ANSWER}
        federation.registry.admit(Site("a", 9, 10, 4))

    federation = federation_of(grid, *sites, refresh=refresh, rejoin_seconds=5.0)
    collector = ReplyCollector(federation, "evaluate")
    replies = list(collector.collect([Message(CONTENT, 2, "evaluate")], accept))
    assert [reply.metadata.src_node_id for reply in replies] == [9]
    assert collector.records["a"].phase == "evaluate"


def test_second_reply_of_a_site_does_not_count():
    class Repeating(FakeGrid):
        def send_and_receive(self, messages, *, timeout=None):
            for reply in super().send_and_receive(messages, timeout=timeout):
                yield reply
                yield reply

    grid = Repeating({2: lambda _: ANSWER})
    collector = ReplyCollector(federation_of(grid, site("a", 2)), "train")
    assert len(list(collector.collect([Message(CONTENT, 2, "train")], accept))) == 1
    assert collector.num_accepted == 1


def test_message_to_a_node_that_is_no_site_is_not_sent():
    grid = FakeGrid({2: lambda _: ANSWER, 5: lambda _: ANSWER})
    collector = ReplyCollector(federation_of(grid, site("a", 2)), "train")
    messages = [Message(CONTENT, node, "train") for node in (5, 2)]
    assert len(list(collector.collect(messages, accept))) == 1
    assert grid.asked == [(2, "train")]


def test_replies_come_one_by_one():
    """The next site is not even asked before the reply in hand was used."""
    grid = FakeGrid({node: lambda _: ANSWER for node in (2, 3)})
    federation = federation_of(grid, site("a", 2), site("b", 3))
    collector = ReplyCollector(federation, "train")
    replies = collector.collect([Message(CONTENT, node, "train") for node in (2, 3)], accept)
    next(replies)
    assert grid.asked == [(2, "train")]
