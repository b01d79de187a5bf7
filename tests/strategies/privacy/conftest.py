"""Replies made by hand, and small federations on the CSV sites of ``tests/conftest.py``."""

from __future__ import annotations

import json

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_server.results.result import RESULT
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.wire.messages import TrainReply


@pytest.fixture
def reply():
    """Make one site's training reply: ``reply(arrays, num_examples)``."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def make(arrays, num_examples=10, loss=0.5, node=2):
        asked = Message(RecordDict(), node, "train")
        return Message(TrainReply(arrays, num_examples, 1, loss).to_records(), reply_to=asked)

    return make


@pytest.fixture
def run():
    """Run a composed configuration; returns ``(outcome, result.json)``."""

    def go(config, grid=None):
        outcome = execute(grid or InProcessGrid(config.site_data), config)
        return outcome, json.loads((config.folder / RESULT).read_text())

    return go
