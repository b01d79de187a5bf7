"""A site's memory between rounds, in a file or in Flower's ``Context.state``; it never leaves."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np
from flwr.app import ArrayRecord, Context

from fl_client.state.memory import Records, RunMemory
from strategies.site_state import SiteState
from strategies.wire.records import find_record, pack_arrays, unpack_arrays
from tasks.contract import Arrays


class RoundState(SiteState, Protocol):
    """What a site remembers, as one round sees it."""

    def keep(self, number: int) -> None:
        """Make lasting what round ``number`` has put."""


def open_state(context: Context, memory: RunMemory | None, *, before: int) -> RoundState:
    """Return what the site remembers of a run from the rounds before ``before``.

    Parameters
    ----------
    memory : RunMemory or None
        The run's files. A simulated site has none, and neither has one whose ``memory`` is null:
        it remembers as long as its process.
    """
    return ContextState(context) if memory is None else FileState(memory, before)


class ContextState:
    """``RoundState`` on top of a Flower context."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def get(self, name: str) -> Arrays | None:
        """Return what an earlier round stored under ``name``."""
        record = find_record(self._state, name, ArrayRecord)
        return None if record is None else unpack_arrays(record)

    def put(self, name: str, arrays: Arrays) -> None:
        """Keep ``arrays`` at the site."""
        self._state[name] = pack_arrays(arrays)

    def keep(self, number: int) -> None:
        """Do nothing: what was put is in the context already."""


class FileState:
    """``RoundState`` on top of the run's files, which are read only if asked for."""

    def __init__(self, memory: RunMemory, before: int) -> None:
        self._memory = memory
        self._before = before
        self._changed = False

    @cached_property
    def _records(self) -> Records:
        found = self._memory.newest(self._before)
        return found[1] if found is not None else {}

    def get(self, name: str) -> Arrays | None:
        """Return what an earlier round stored under ``name``."""
        arrays = self._records.get(name)
        return None if arrays is None else _copied(arrays)

    def put(self, name: str, arrays: Arrays) -> None:
        """Remember ``arrays``; ``keep`` writes them."""
        self._records[name] = _copied(arrays)
        self._changed = True

    def keep(self, number: int) -> None:
        """Write the state after round ``number``, if the round has put anything."""
        if self._changed:
            self._memory.write(number, self._records, self._before)


def _copied(arrays: Arrays) -> Arrays:
    """Copy: a model's arrays may be views of what training goes on to change."""
    return {name: np.array(array) for name, array in arrays.items()}
