"""Sites in this process: one reply at a time, and what they remember."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_common.errors import ConfigError
from fl_server.runtimes.simulation import ERROR_UNKNOWN_NODE, InProcessGrid, load_client_app
from strategies.simulated import SITE_JSON
from strategies.site_state import PRIVACY_BUDGET
from strategies.wire.records import pack_arrays, unpack_arrays

MODULE = "remembering_client"
SITES = [{"name": name, "train": f"{name}.csv"} for name in ("berlin", "paris", "rome")]


def remembering_app():
    """Make an app that counts its trainings in its memory, and the list of what it was asked."""
    app, asked = ClientApp(), []

    def answer(message, context):
        name = json.loads(context.node_config[SITE_JSON])["name"]
        asked.append((name, message.metadata.message_type))
        reply = RecordDict({"site": ConfigRecord({"name": name})})
        return Message(reply, reply_to=message)

    @app.train()
    def train(message, context):
        counted = context.state.get("counter")
        before = unpack_arrays(counted)["n"] if counted else np.zeros(2)
        context.state["counter"] = pack_arrays({"n": before + 1})
        context.state[PRIVACY_BUDGET] = pack_arrays({"spent": before[:1] + 1})
        return answer(message, context)

    @app.evaluate()
    def evaluate(message, context):
        return answer(message, context)

    return app, asked


@pytest.fixture
def asked(monkeypatch):
    app, asked = remembering_app()
    module = ModuleType(MODULE)
    module.app, module.number = app, 1
    monkeypatch.setitem(sys.modules, MODULE, module)
    return asked


@pytest.fixture
def grid(asked):
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    yield new_grid()
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def new_grid():
    return InProcessGrid(SITES, f"{MODULE}:app")


def messages(*nodes, kind="train"):
    return [Message(RecordDict(), node, kind) for node in nodes]


def train(grid, *nodes):
    return list(grid.send_and_receive(messages(*nodes)))


def counted(grid):
    """Return how often each node has trained, as it remembers."""
    state = grid.client_state()
    return {
        int(path.partition("::")[0]): array.tolist()
        for path, array in state.items()
        if path.endswith("::counter::n")
    }


def spent(grid):
    state = grid.client_state()
    return {
        int(path.partition("::")[0]): float(array[0])
        for path, array in state.items()
        if path.endswith(f"::{PRIVACY_BUDGET}::spent")
    }


def test_nodes_are_the_sites_in_their_order(grid, asked):
    assert list(grid.get_node_ids()) == [2, 3, 4]
    replies = train(grid, 4, 2, 3)
    assert [reply.content["site"]["name"] for reply in replies] == ["rome", "berlin", "paris"]
    assert [reply.metadata.src_node_id for reply in replies] == [4, 2, 3]


def test_replies_are_computed_one_by_one_as_they_are_asked_for(grid, asked):
    sent = []

    def feed():
        for message in messages(2, 3, 4):
            sent.append(message.metadata.dst_node_id)
            yield message

    replies = grid.send_and_receive(feed())
    assert (sent, asked) == ([], [])
    for number, (node, name) in enumerate([(2, "berlin"), (3, "paris"), (4, "rome")], start=1):
        assert next(replies).metadata.src_node_id == node
        assert (len(sent), len(asked), asked[-1]) == (number, number, (name, "train"))
    assert next(replies, None) is None


def test_reply_belongs_to_its_message_and_ids_are_never_given_twice(grid):
    batch = messages(2, 2, 3)
    replies = list(grid.send_and_receive(batch))
    ids = [message.metadata.message_id for message in batch]
    assert [reply.metadata.reply_to_message_id for reply in replies] == ids
    (later,) = messages(2)
    list(grid.send_and_receive([later]))
    assert len({*ids, later.metadata.message_id}) == 4


def test_unknown_node_answers_with_an_error_and_costs_nobody_else(grid, asked):
    missing, there = train(grid, 99, 2)
    assert missing.has_error()
    assert (missing.error.code, missing.error.reason) == (1, ERROR_UNKNOWN_NODE.reason)
    assert there.content["site"]["name"] == "berlin"
    assert asked == [("berlin", "train")]


def test_pushed_message_is_answered_at_once_and_pulled_once(grid, asked):
    first, second = grid.push_messages(messages(2, 3))
    assert len(asked) == 2
    (reply,) = grid.pull_messages([second, "unknown"])
    assert reply.content["site"]["name"] == "paris"
    assert grid.pull_messages([second]) == []
    (reply,) = grid.pull_messages([first, second])
    assert reply.metadata.reply_to_message_id == first


def test_message_of_older_strategies_goes_where_it_should(grid):
    content = RecordDict({"m": MetricRecord({"a": 1})})
    message = grid.create_message(content, "evaluate", 3, "7", ttl=5.0)
    metadata = message.metadata
    assert message.content is content
    assert (metadata.dst_node_id, metadata.message_type) == (3, "evaluate")
    assert (metadata.group_id, metadata.ttl) == ("7", 5.0)


def test_run_is_the_one_that_was_set(grid):
    assert grid.run.run_id == 1
    grid.set_run(Run.create_empty(7))
    assert grid.run.run_id == 7


# What the sites remember


def test_sites_remember_from_message_to_message_and_each_for_itself(grid):
    train(grid, 2, 3, 2)
    assert counted(grid) == {2: [2.0, 2.0], 3: [1.0, 1.0]}
    assert set(grid.client_state()) == {
        f"{node}::{name}" for node in (2, 3) for name in ("counter::n", f"{PRIVACY_BUDGET}::spent")
    }


def test_only_arrays_are_what_a_site_remembers(grid):
    grid._contexts[2].state["note"] = ConfigRecord({"a": 1})
    assert grid.client_state() == {}


def test_commit_undoes_what_was_not_accepted(grid):
    train(grid, 2, 3)
    grid.commit([2, 3])
    train(grid, 2, 3)
    grid.commit([2])
    assert counted(grid) == {2: [2.0, 2.0], 3: [1.0, 1.0]}


def test_first_memory_of_a_site_that_was_not_accepted_is_gone(grid):
    train(grid, 2, 3)
    grid.commit({3})
    assert counted(grid) == {3: [1.0, 1.0]}


def test_commit_goes_back_over_every_training_since_the_last(grid):
    train(grid, 2)
    grid.commit([2])
    train(grid, 2, 2, 2)
    assert counted(grid) == {2: [4.0, 4.0]}
    grid.commit([])
    assert counted(grid) == {2: [1.0, 1.0]}


def test_what_was_committed_is_not_undone_later(grid):
    train(grid, 2)
    grid.commit([2])
    grid.commit([])
    assert counted(grid) == {2: [1.0, 1.0]}


def test_spent_privacy_stays_spent(grid):
    train(grid, 2, 3)
    grid.commit([3])
    assert spent(grid) == {2: 1.0, 3: 1.0}
    train(grid, 3)
    grid.commit([])
    assert (counted(grid), spent(grid)) == ({3: [1.0, 1.0]}, {2: 1.0, 3: 2.0})


def test_restored_sites_go_on_where_they_were(grid):
    train(grid, 2, 3, 3)
    memory = grid.client_state()
    again = new_grid()
    assert again.client_state() == {}
    again.restore(memory)
    assert again.client_state().keys() == memory.keys()
    for path, array in memory.items():
        np.testing.assert_array_equal(again.client_state()[path], array)
    train(again, 3, 4)
    assert counted(again) == {2: [1.0, 1.0], 3: [3.0, 3.0], 4: [1.0, 1.0]}


def test_array_whose_name_has_the_separator_is_restored(grid):
    memory = {"2::variate::layer::w": np.arange(3.0)}
    grid.restore(memory)
    np.testing.assert_array_equal(
        unpack_arrays(grid._contexts[2].state["variate"])["layer::w"], [0.0, 1.0, 2.0]
    )
    assert grid.client_state().keys() == memory.keys()


# The client app


def test_client_app_is_loaded_by_its_reference(asked):
    assert load_client_app(f"{MODULE}:app") is sys.modules[MODULE].app


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:app", "cannot be loaded: No module named 'no_such_module'"),
        (f"{MODULE}:none", "cannot be loaded: .*none"),
        (f"{MODULE}:number", r"is not a flwr\.clientapp\.ClientApp"),
        (MODULE, "cannot be loaded"),
    ],
)
def test_reference_to_no_client_app_is_said(asked, reference, message):
    with pytest.raises(ConfigError, match=f"client app '{reference}' {message}"):
        load_client_app(reference)
