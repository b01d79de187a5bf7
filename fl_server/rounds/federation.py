"""A run's sites as the phases of a round reach them: grid, configuration, admission and state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.serverapp import Grid

from fl_server.config.run_config import RunConfig
from fl_server.results.records import SiteRecord
from fl_server.rounds.admission import Admission
from fl_server.rounds.run_state import RunState
from fl_server.rounds.sites import Site, SiteRegistry


@dataclass(frozen=True)
class Federation:
    """What every phase of a run's rounds needs beside the strategy."""

    grid: Grid
    config: RunConfig
    admission: Admission
    state: RunState

    @property
    def registry(self) -> SiteRegistry:
        """The run's sites."""
        return self.admission.registry

    def gather(self) -> list[Site]:
        """Return the connected sites; wait a while for one that has just dropped out."""
        return self.admission.gather()

    def refresh(self) -> None:
        """Admit sites that joined or came back on a new node since the last look."""
        self.admission.refresh()

    def online(self) -> set[str]:
        """Return the names of the sites that are connected now."""
        return {site.name for site in self.registry.online(self.grid)}

    def by_site(self, records: Mapping[str, SiteRecord], phase: str) -> tuple[SiteRecord, ...]:
        """List a phase's records by site; a site that is not connected is named too."""
        online = self.online()
        away = {
            site.name: SiteRecord(site.name, phase, "absent", reason="site is not connected")
            for site in self.registry
            if site.name not in online
        }
        listed = {**away, **records}
        return tuple(listed[site] for site in sorted(listed))
