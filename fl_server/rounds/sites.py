"""Which sites take part: node ids to names, in an order that does not depend on the network."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fl_common.errors import QuorumError
from fl_server.config.run_config import SitesConfig
from tasks.contract import HOLDOUT, TRAIN, VALIDATION

POLL_SECONDS = 0.2


@dataclass
class Site:
    """One site: its current node and what it declared.

    ``memory_round`` is the last round, before the run's first or resumed one, that it remembers.
    """

    name: str
    node_id: int
    num_train: int
    num_holdout: int
    memory_round: int | None = None
    num_validation: int = 0

    def num_rows(self, split: str) -> int:
        """Return how many rows of a split the site declared."""
        rows = {TRAIN: self.num_train, VALIDATION: self.num_validation, HOLDOUT: self.num_holdout}
        return rows[split]


class SiteRegistry:
    """The sites of a run, always listed by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Site] = {}
        self._by_node: dict[int, str] = {}

    def admit(self, site: Site) -> None:
        """Add a site, or move it to its new node after a restart."""
        previous = self._by_name.get(site.name)
        if previous is not None:
            self._by_node.pop(previous.node_id, None)
        self._by_name[site.name] = site
        self._by_node[site.node_id] = site.name

    def name_of(self, node_id: int) -> str | None:
        """Return the site behind a node, if it is known."""
        return self._by_node.get(node_id)

    def site(self, name: str) -> Site:
        """Return a site by name."""
        return self._by_name[name]

    def __iter__(self) -> Iterator[Site]:
        return iter(sorted(self._by_name.values(), key=lambda m: m.name))

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def online(self, grid: Grid) -> list[Site]:
        """Return the sites that are connected now, by name."""
        connected = set(grid.get_node_ids())
        return [site for site in self if site.node_id in connected]


def wait_for_nodes(grid: Grid, sites: SitesConfig, expected: int) -> list[int]:
    """Wait until ``expected`` nodes are connected, or the deadline passed with a quorum.

    Raises
    ------
    QuorumError
        If fewer than the quorum are connected at the deadline.
    """
    quorum = sites.quorum or expected
    wait = getattr(grid, "wait_for_nodes", None)
    deadline = time.monotonic() + sites.wait_seconds
    if wait is not None:
        nodes = list(wait(max(expected, quorum), sites.wait_seconds))
    else:
        while len(nodes := list(grid.get_node_ids())) < max(expected, quorum):
            if time.monotonic() >= deadline:
                break
            wait_for_change(grid)
    if len(nodes) < quorum:
        raise QuorumError(
            f"{len(nodes)} of {quorum} sites joined within {sites.wait_seconds:g} s; start more "
            "clients, or lower sites.quorum, or raise sites.wait_seconds"
        )
    return nodes


def settled_nodes(grid: Grid, seconds: float = 60.0) -> int:
    """Return how many nodes a simulation engine has, once it has registered them all."""
    deadline = time.monotonic() + seconds
    before = 0
    while time.monotonic() < deadline:
        now = len(list(grid.get_node_ids()))
        if now and now == before:
            break
        before = now
        time.sleep(POLL_SECONDS)  # what counts is that nothing changed meanwhile
    return before


def wait_for_change(grid: Grid) -> None:
    """Wait until a node joins or leaves, but no longer than a poll.

    Our own grid says so; Flower's has to be looked at again.
    """
    wait = getattr(grid, "wait_for_change", None)
    if wait is not None:
        wait(POLL_SECONDS)
    else:
        time.sleep(POLL_SECONDS)


class SiteGrid(Grid):
    """A grid that shows a strategy only the run's sites, by name, whatever their node ids.

    Parameters
    ----------
    chosen : collection of str or None
        The sites that this round's sampling chose; None: all.
    """

    def __init__(
        self, grid: Grid, registry: SiteRegistry, chosen: Collection[str] | None = None
    ) -> None:
        self._grid = grid
        self._registry = registry
        self._chosen = chosen

    @property
    def num_sites(self) -> int:
        """Number of sites of the run, whether or not they are chosen or connected.

        It is N of SCAFFOLD and FedDyn: the memory of a site that is away stays in their state.
        """
        return len(self._registry)

    @property
    def num_examples(self) -> int:
        """Training rows of these sites."""
        return sum(site.num_train for site in self._registry)

    @property
    def connected(self) -> list[int]:
        """The nodes of all connected sites, chosen or not."""
        return [site.node_id for site in self._registry.online(self._grid)]

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen connected sites' nodes, in the order of the sites' names."""
        return [
            site.node_id
            for site in self._registry.online(self._grid)
            if self._chosen is None or site.name in self._chosen
        ]

    def set_run(self, run: Run) -> None:
        """Not for strategies."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Create a message."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and receive their replies."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def addressed(content: RecordDict, message_type: str, sites: Iterable[Site]) -> list[Message]:
    """Address one shared content to many sites."""
    return [Message(content, site.node_id, message_type) for site in sites]
