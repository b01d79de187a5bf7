"""A grid whose nodes answer with whatever a test says, and a run on it."""

from __future__ import annotations

from types import SimpleNamespace

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fl_server.config.run_config import SitesConfig
from fl_server.rounds.federation import Federation
from fl_server.rounds.sites import Site, SiteRegistry

GONE = Error(ErrorCode.NODE_UNAVAILABLE, "gone")


class FakeGrid(Grid):
    """Nodes that answer a message with records, an error, or (None) not at all.

    Parameters
    ----------
    answers : dict of int to callable
        A node's message to its answer.
    """

    set_run = create_message = run = push_messages = pull_messages = None

    def __init__(self, answers):
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.answers = dict(answers)
        self.asked = []
        self._count = 0

    def get_node_ids(self):
        return list(self.answers)

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            self._count += 1
            message.metadata.__dict__["_message_id"] = str(self._count)
            node = message.metadata.dst_node_id
            self.asked.append((node, message.metadata.message_type))
            answer = self.answers.get(node, lambda _: GONE)(message)
            if answer is not None:
                yield Message(answer, reply_to=message)


def site(name, node, num_train=10, num_holdout=4, **more):
    return Site(name, node, num_train, num_holdout, **more)


def registry_of(*sites):
    registry = SiteRegistry()
    for entry in sites:
        registry.admit(entry)
    return registry


def federation_of(grid, *sites, refresh=lambda: None, **waits):
    """Return a run on ``sites`` that waits for nobody, unless told otherwise."""
    registry = registry_of(*sites)
    admission = SimpleNamespace(
        registry=registry, refresh=refresh, gather=lambda: registry.online(grid)
    )
    config = SimpleNamespace(sites=SitesConfig(**{"rejoin_seconds": 0.0, **waits}))
    return Federation(grid, config, admission, SimpleNamespace())
