"""A site's memory between rounds, kept in Flower's ``Context.state``; it never leaves the site."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context

from strategies.messages import find_record, pack_arrays, unpack_arrays
from tasks.contract import Arrays


class ContextState:
    """``strategies.local.SiteState`` on top of a Flower context."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def get(self, name: str) -> Arrays | None:
        """Return what an earlier round stored under ``name``."""
        record = find_record(self._state, name, ArrayRecord)
        return None if record is None else unpack_arrays(record)

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep ``arrays`` at the site."""
        self._state[name] = pack_arrays(arrays)
