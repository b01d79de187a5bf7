"""A site's memory as one round sees it: in the context, or in the run's files."""

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from fl_client.state.memory import RunMemory
from fl_client.state.round_state import ContextState, FileState, open_state


def context():
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture(params=["context", "file"])
def opened(request, tmp_path):
    """Open the state of one site before a round, again and again."""
    kept = context()
    memory = RunMemory(tmp_path, "clinic", "run") if request.param == "file" else None
    return lambda before: open_state(kept, memory, before=before)


def test_state_is_in_the_context_where_there_are_no_files(tmp_path):
    assert isinstance(open_state(context(), None, before=1), ContextState)
    memory = RunMemory(tmp_path, "clinic", "run")
    assert isinstance(open_state(context(), memory, before=1), FileState)


def test_what_a_round_kept_the_next_one_finds(opened):
    first = opened(1)
    assert first.get("head") is None
    first.put("head", {"w": np.arange(3.0)})
    first.keep(1)
    np.testing.assert_array_equal(opened(2).get("head")["w"], np.arange(3.0))


def test_what_is_changed_afterwards_is_not_remembered(opened):
    array = np.zeros(2)
    state = opened(1)
    state.put("head", {"w": array})
    array += 1
    found = state.get("head")["w"]
    np.testing.assert_array_equal(found, [0, 0])
    found += 5
    state.keep(1)
    np.testing.assert_array_equal(opened(2).get("head")["w"], [0, 0])


def test_file_is_written_only_if_the_round_has_put_anything(tmp_path):
    memory = RunMemory(tmp_path, "clinic", "run")
    open_state(context(), memory, before=1).keep(1)
    assert memory.newest(2) is None


def test_what_was_not_kept_is_not_in_the_files(tmp_path):
    memory = RunMemory(tmp_path, "clinic", "run")
    open_state(context(), memory, before=1).put("head", {"w": np.zeros(1)})
    assert open_state(context(), memory, before=2).get("head") is None
