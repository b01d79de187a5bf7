"""Who takes part: sites are admitted by what they declare, in the first exchange and later."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fl_common.errors import QuorumError, ReplyError
from fl_server.config.run_config import SitesConfig
from fl_server.results.records import RoundRecord, SiteRecord
from fl_server.rounds.client_state import accepted_rounds
from fl_server.rounds.reply_validation import check_summands
from fl_server.rounds.run_state import RunState
from fl_server.rounds.sites import Site, SiteRegistry, wait_for_change, wait_for_nodes
from strategies.wire.messages import DESCRIBE, FIT, SiteReply, request
from strategies.wire.records import payload_bytes
from strategies.wire.refusal import Refusal
from tasks.stats import Stats

log = logging.getLogger("fedleague.server")
DESCRIBE_SECONDS = 60.0


class Admission:
    """Admit sites, at the start and when they come back.

    Attributes
    ----------
    registry : SiteRegistry
    refused : list of SiteRecord
        Nodes that joined but could not take part, and why.

    Parameters
    ----------
    num_past : int
        Rounds that the run has behind it, where it is resumed.
    """

    def __init__(
        self, grid: Grid, sites: SitesConfig, state: RunState, *, num_past: int = 0
    ) -> None:
        self._grid = grid
        self._config = sites
        self._state = state
        self._num_past = num_past
        self._seen: set[int] = set()
        self._given_up: set[str] = set()
        self.registry = SiteRegistry()
        self.refused: list[SiteRecord] = []

    def start(self, expected: int) -> Stats:
        """Wait for the sites and return the pooled summands of their preprocessing.

        Parameters
        ----------
        expected : int
            How many sites to wait for.

        Raises
        ------
        QuorumError
            If too few sites join or can use their data.
        """
        nodes = wait_for_nodes(self._grid, self._config, expected)
        pooled = self._ask(FIT, nodes, self._config.reply_seconds)
        wanted = self._config.quorum or 1
        if len(self.registry) < wanted:
            why = "; ".join(f"{record.site}: {record.reason}" for record in self.refused)
            raise QuorumError(f"{len(self.registry)} of {wanted} sites can take part ({why})")
        return pooled

    def forgetful(self, past: Iterable[RoundRecord]) -> list[str]:
        """Name the sites that trained before the resumption and do not remember that, or are away.

        A site keeps its states after the last two rounds in which it trained, and only one of them
        can be later than the checkpoint: the state that belongs to the checkpoint is there, unless
        it was lost. One that is later than the last accepted reply is as in a run without a break.
        """
        trained = accepted_rounds(past)
        held = {site.name: site.memory_round or 0 for site in self.registry}
        return sorted(name for name, number in trained.items() if held.get(name, 0) < number)

    def refresh(self) -> None:
        """Admit sites that joined or came back on a new node since the last look."""
        unknown = [node for node in self._grid.get_node_ids() if node not in self._seen]
        if unknown:
            self._ask(DESCRIBE, unknown, DESCRIBE_SECONDS)

    def gather(self) -> list[Site]:
        """Return the connected sites; wait a while for one that has just dropped out."""
        give_up = time.monotonic() + self._config.rejoin_seconds
        while True:
            online = self.registry.online(self._grid)
            missing = {site.name for site in self.registry} - {site.name for site in online}
            if not missing - self._given_up:
                break
            if time.monotonic() >= give_up:
                break
            self.refresh()
            wait_for_change(self._grid)
        self._given_up = missing
        return online

    def _ask(self, kind: str, nodes: Iterable[int], timeout: float) -> Stats:
        nodes = list(nodes)
        content = request(self._state.job_text, self._num_past)
        size = payload_bytes(content)
        pooled = Stats()
        self._seen.update(nodes)
        messages = [Message(content, node, kind) for node in nodes]
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            node_id = reply.metadata.src_node_id
            try:
                answer = self._answer(reply)
                self._check_name(answer.name, node_id)
                pooled = pooled.merge(answer.stats)
            except ReplyError as error:
                log.warning("node %d cannot take part: %s", node_id, error)
                self.refused.append(
                    SiteRecord(
                        f"node {node_id}", "fit", "refused", bytes_down=size, reason=str(error)
                    )
                )
            else:
                counts = (answer.num_train, answer.num_holdout, answer.memory_round)
                self.registry.admit(Site(answer.name, node_id, *counts, answer.num_validation))
        return pooled

    def _answer(self, reply: Message) -> SiteReply:
        if reply.has_error():
            why = Refusal.from_code(reply.error.code)
            raise ReplyError(why.text if why else f"the site failed (code {reply.error.code})")
        answer = SiteReply.from_records(reply.content)
        check_summands(answer.stats, max(answer.num_train, 1))
        return answer

    def _check_name(self, name: str, node_id: int) -> None:
        """Refuse a name that another connected node has."""
        if name not in self.registry:
            return
        owner = self.registry.site(name).node_id
        if owner != node_id and owner in set(self._grid.get_node_ids()):
            raise ReplyError(f"another connected node is already called '{name}'")
