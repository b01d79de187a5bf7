"""What a run carries from round to round beside the model, and how a resumed run gets it back."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from flwr.serverapp.strategy import Strategy

from fl_server.results.checkpoint import Checkpoint
from fl_server.results.records import SiteRecord
from fl_server.rounds.client_sampling import ClientSampling
from fl_server.rounds.client_state import ClientState, KeepsClientState
from fl_server.rounds.federation import Federation
from strategies.sampling import Sampler, Uniform
from strategies.snapshot import forget_tied_to_clients, restore
from tasks.contract import Arrays

log = logging.getLogger("fedleague.server")


class RunMemory:
    """The strategy's state, and what is known of each site.

    Attributes
    ----------
    strategy : Strategy
    sampling : ClientSampling
        Knows each site's last loss.
    clients : ClientState
        Knows which sites are ahead of the model.
    """

    def __init__(
        self, federation: Federation, strategy: Strategy, sampler: Sampler | None = None
    ) -> None:
        self._federation = federation
        self.strategy = strategy
        self.sampling = ClientSampling(sampler or Uniform(), federation.config.seed)
        self.clients = ClientState(federation.grid, federation.registry)
        self._epsilons: dict[str, float] = {}

    @property
    def epsilon(self) -> float | None:
        """Privacy spent so far: the strategy's, or the most that a site says of its own training.

        None where nothing is noised.
        """
        spent: float | None = getattr(
            self.strategy, "epsilon", max(self._epsilons.values(), default=None)
        )
        return spent

    def note(self, number: int, sites: Iterable[SiteRecord], *, succeeded: bool) -> None:
        """Learn from a round's training; a simulated site's memory is put back at once."""
        sites = tuple(sites)
        self.sampling.note(sites)
        self.clients.note(number, sites, succeeded=succeeded)
        self._epsilons |= {s.site: s.epsilon for s in sites if s.epsilon is not None}

    def client_state(self) -> Arrays:
        """Return what simulated sites remember; real ones keep it themselves."""
        grid = self._federation.grid
        return grid.client_state() if isinstance(grid, KeepsClientState) else {}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on after a checkpoint's last round."""
        restore(self.strategy, checkpoint.strategy_arrays, checkpoint.strategy_numbers)
        self._remind_sites(checkpoint)
        for record in checkpoint.rounds:
            self.note(record.round, record.sites, succeeded=record.status == "ok")

    def _remind_sites(self, checkpoint: Checkpoint) -> None:
        """Give simulated sites their memory back; real ones have it, or all start anew."""
        grid, admission = self._federation.grid, self._federation.admission
        if isinstance(grid, KeepsClientState):
            grid.restore(checkpoint.site_memory)
        elif (sites := admission.forgetful(checkpoint.rounds)) and (
            pair := forget_tied_to_clients(self.strategy)
        ):
            self._federation.state.start_anew()
            why = "not remembered by %s: all sites start anew, and so does the strategy's %s"
            log.warning(why, ", ".join(sites), ", ".join(pair))
