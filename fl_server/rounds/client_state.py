"""What a strategy's client update remembers must be what the server knows of.

A site changes its memory when it trains (SCAFFOLD's c_i, FedDyn's gradient, what top-k left out). A
reply that was refused, came too late or belongs to a round that failed never reached the model: the
site must go on from the memory that it had before, or both sides stay out of step for good.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol, runtime_checkable

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fl_server.results.records import RoundRecord, SiteRecord
from fl_server.rounds.sites import SiteRegistry
from strategies.wire.messages import CONFIG, LAST_COMMITTED
from strategies.wire.records import record_of
from tasks.contract import Arrays


@runtime_checkable
class KeepsClientState(Protocol):
    """A grid that keeps what its sites remember, because they have no disk of their own."""

    def client_state(self) -> Arrays:
        """Return what the sites remember between rounds."""

    def restore(self, memory: Arrays) -> None:
        """Give the sites back what they remembered."""

    def commit(self, nodes: Collection[int]) -> None:
        """Keep what ``nodes`` have come to remember since the last call; undo it at all others."""


def accepted_rounds(records: Iterable[RoundRecord]) -> dict[str, int]:
    """Return the last round in which each site's training went into the model."""
    return {
        site.site: record.round
        for record in records
        if record.status == "ok"
        for site in record.sites
        if _trained(site) and site.status == "ok"
    }


def _trained(site: SiteRecord) -> bool:
    return site.phase == "train" and site.status != "training"


class ClientState:
    """Which sites are ahead of the server, and by how much."""

    def __init__(self, grid: Grid, registry: SiteRegistry) -> None:
        self._grid = grid
        self._registry = registry
        self._accepted: dict[str, int] = {}
        self._ahead: set[str] = set()

    def note(self, number: int, sites: Iterable[SiteRecord], *, succeeded: bool) -> None:
        """Learn from a round's training; a simulated site's memory is put back at once."""
        asked = {site.site: site for site in sites if _trained(site)}
        accepted = {name for name, site in asked.items() if succeeded and site.status == "ok"}
        self._accepted |= dict.fromkeys(accepted, number)
        self._ahead = (self._ahead | asked.keys()) - accepted
        if isinstance(self._grid, KeepsClientState):
            self._grid.commit({self._registry.site(name).node_id for name in accepted})

    def addressed(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Tell sites that are ahead which round to go on from; the others share one content."""
        for message in messages:
            site = self._registry.name_of(message.metadata.dst_node_id)
            yield self._restoring(message, site) if site in self._ahead else message

    def _restoring(self, message: Message, site: str | None) -> Message:
        records = dict(message.content.items())
        config = record_of(message.content, CONFIG, ConfigRecord)
        number = self._accepted.get(site or "", 0)
        content = RecordDict({**records, CONFIG: ConfigRecord({**config, LAST_COMMITTED: number})})
        return Message(content, message.metadata.dst_node_id, message.metadata.message_type)
