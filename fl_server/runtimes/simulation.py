"""The in-process runtime: Flower's ``Grid`` without Ray, ports or serialisation.

Replies are produced one by one as the strategy asks for them, so 1,000 sites need the memory of
one.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl_common.errors import ConfigError
from fl_server.runtimes.simulated_sites import simulated_site
from strategies.simulated import SITE_JSON
from strategies.site_state import PRIVACY_BUDGET
from strategies.snapshot import SEPARATOR
from strategies.wire.records import pack_arrays, unpack_arrays
from tasks.contract import Arrays

CLIENT_APP = "fl_client.app:app"
SERVER_NODE, RUN_ID, TASK_ID = 1, 1, 1
ERROR_UNKNOWN_NODE = Error(code=1, reason="no such node")


class InProcessGrid(Grid):
    """A grid whose nodes are sites in this process.

    Parameters
    ----------
    sites : sequence of mappings
        Each site in the keys of ``site.yaml``.
    client_app : str
        ``module:attribute`` of the ClientApp, loaded by reference as Flower does.
    """

    def __init__(self, sites: Sequence[Mapping[str, Any]], client_app: str = CLIENT_APP) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = (
            RUN_ID,
            SERVER_NODE,
            TASK_ID,
        )
        self._app = load_client_app(client_app)
        self._contexts = {
            node_id: _context(node_id, site) for node_id, site in enumerate(sites, start=2)
        }
        self._ids = count(1)
        self._replies: dict[str, Message] = {}
        self._before: dict[int, dict[str, Any]] = {}
        self._run = Run.create_empty(RUN_ID)

    def set_run(self, run: Run) -> None:
        """Set the run that this grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message (kept for Flower's older strategies)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return every site's node id, in the order of the configuration."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message at once and keep its reply until it is pulled."""
        pushed = []
        for message in messages:
            reply = self._deliver(message)
            self._replies[message.metadata.message_id] = reply
            pushed.append(message.metadata.message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield each reply as it is computed; ``timeout`` has no meaning in one process."""
        for message in messages:
            yield self._deliver(message)

    def client_state(self) -> Arrays:
        """Return what the sites remember between rounds: ``node::record::array``."""
        return {
            SEPARATOR.join((str(node_id), record, name)): array
            for node_id, context in self._contexts.items()
            for record, arrays in context.state.items()
            if isinstance(arrays, ArrayRecord)
            for name, array in unpack_arrays(arrays).items()
        }

    def restore(self, memory: Arrays) -> None:
        """Give the sites back what they remembered."""
        records: dict[tuple[int, str], Arrays] = {}
        for path, array in memory.items():
            node_id, record, name = path.split(SEPARATOR, 2)
            records.setdefault((int(node_id), record), {})[name] = array
        for (number, record), arrays in records.items():
            self._contexts[number].state[record] = pack_arrays(arrays)

    def commit(self, nodes: Collection[int]) -> None:
        """Keep what ``nodes`` have come to remember since the last call; undo it at all others.

        What private training has spent stays spent.
        """
        for node_id, records in self._before.items():
            if node_id not in nodes:
                state = self._contexts[node_id].state
                for name in set(state) - records.keys() - {PRIVACY_BUDGET}:
                    del state[name]
                for name in records.keys() - {PRIVACY_BUDGET}:
                    state[name] = records[name]
        self._before.clear()

    def _deliver(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = str(next(self._ids))
        context = self._contexts.get(message.metadata.dst_node_id)
        if context is None:
            return Message(ERROR_UNKNOWN_NODE, reply_to=message)
        if message.metadata.message_type == MessageType.TRAIN:
            self._before.setdefault(message.metadata.dst_node_id, dict(context.state.items()))
        return self._app(message, context)


def load_client_app(reference: str) -> ClientApp:
    """Load a ClientApp by its ``module:attribute`` reference.

    Raises
    ------
    ConfigError
        If it cannot be imported or is no ClientApp.
    """
    module, _, attribute = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"client app '{reference}' cannot be loaded: {error}") from error
    if not isinstance(app, ClientApp):
        raise ConfigError(f"client app '{reference}' is not a flwr.clientapp.ClientApp")
    return app


def _context(node_id: int, site: Mapping[str, Any]) -> Context:
    return Context(
        run_id=RUN_ID,
        node_id=node_id,
        node_config={SITE_JSON: simulated_site(site)},
        state=RecordDict(),
        run_config={},
    )
