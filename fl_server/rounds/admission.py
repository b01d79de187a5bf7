"""The first exchange: who takes part, and the global preprocessing from their summands."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fl_common.errors import QuorumError, ReplyError
from fl_server.config.run_config import RunConfig
from fl_server.results.checkpoint import Checkpoint
from fl_server.results.records import SiteRecord
from fl_server.rounds.client_state import accepted_rounds
from fl_server.rounds.reply_validation import check_summands
from fl_server.rounds.sites import Site, SiteRegistry, wait_for_change, wait_for_nodes
from strategies.privacy.modes import SecureAggregation
from strategies.wire.job import Job
from strategies.wire.messages import DESCRIBE, FIT, SiteReply, request
from strategies.wire.records import payload_bytes
from strategies.wire.refusal import Refusal
from tasks.contract import Task
from tasks.stats import Stats
from tasks.trees.variable_size import VariableSizeModel

log = logging.getLogger("fedleague.server")
DESCRIBE_SECONDS = 60.0


class Admission:
    """Admit sites and fit the preprocessing.

    Attributes
    ----------
    registry : SiteRegistry
    fitted : mapping
        Finalised preprocessing, after ``start``.
    blank : Stats or None
        All-zero metric summands: the names, shapes and dtypes that a reply may hold.
    growing : VariableSizeModel or None
        The run's model, where it judges replies itself.
    job : str
        The job text that every later message carries, after ``start``.
    refused : list of SiteRecord
        Nodes that joined but could not take part, and why.
    """

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        task: Task,
        strategy_half: str,
        *,
        resumed: Checkpoint | None = None,
    ) -> None:
        self._grid = grid
        self._config = config
        self._task = task
        self._job = Job(
            task=config.usecase.task,
            schema=config.schema,
            model=config.model,
            train=config.train,
            strategy=strategy_half,
            seed=config.seed,
            split_seed=config.split_seed,
            communication=config.communication,
            secagg=isinstance(config.privacy, SecureAggregation),
            run=(resumed.run if resumed else "") or _new_name(),
        )
        self._past = resumed.rounds if resumed else ()
        self._seen: set[int] = set()
        self._given_up: set[str] = set()
        self.registry = SiteRegistry()
        self.fitted: Mapping[str, Any] = {}
        self.empty_stats: Stats | None = None
        self.growing: VariableSizeModel | None = None
        self.job = ""
        self.refused: list[SiteRecord] = []

    @property
    def run(self) -> str:
        """Under which name the sites remember the run."""
        return self._job.run

    def start(self, expected: int, fitted: Mapping[str, Any] | None = None) -> None:
        """Wait for the sites, ask for their summands and finalise the preprocessing.

        Parameters
        ----------
        expected : int
            How many sites to wait for.
        fitted : mapping or None
            Preprocessing of a resumed run, which is kept as it was.

        Raises
        ------
        QuorumError
            If too few sites join or can use their data.
        SchemaError
            If the sites' columns or classes do not fit together.
        """
        nodes = wait_for_nodes(self._grid, self._config.sites, expected)
        pooled = self._ask(FIT, nodes, self._config.sites.reply_seconds)
        wanted = self._config.sites.quorum or 1
        if len(self.registry) < wanted:
            why = "; ".join(f"{record.site}: {record.reason}" for record in self.refused)
            raise QuorumError(f"{len(self.registry)} of {wanted} sites can take part ({why})")
        self.fitted = self._task.prepare(pooled) if fitted is None else fitted
        self._job = replace(self._job, fitted=self.fitted)
        self.job = self._job.to_json()

    def forgetful(self) -> list[str]:
        """Name the sites that trained before the resumption and do not remember that, or are away.

        A site keeps its states after the last two rounds in which it trained, and only one of them
        can be later than the checkpoint: the state that belongs to the checkpoint is there, unless
        it was lost. One that is later than the last accepted reply is as in a run without a break.
        """
        trained = accepted_rounds(self._past)
        held = {member.name: member.memory_round or 0 for member in self.registry}
        return sorted(name for name, number in trained.items() if held.get(name, 0) < number)

    def start_anew(self) -> None:
        """Give the run another name, under which no site remembers anything."""
        self._job = replace(self._job, run=_new_name())
        self.job = self._job.to_json()

    def refresh(self) -> None:
        """Admit sites that joined or came back on a new node since the last look."""
        unknown = [node for node in self._grid.get_node_ids() if node not in self._seen]
        if unknown:
            self._ask(DESCRIBE, unknown, DESCRIBE_SECONDS)

    def gather(self) -> list[Site]:
        """Return the connected sites; wait a while for one that has just dropped out."""
        give_up = time.monotonic() + self._config.sites.rejoin_seconds
        while True:
            online = self.registry.online(self._grid)
            missing = {member.name for member in self.registry} - {m.name for m in online}
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
        content = request(self._job.to_json(), len(self._past))
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


def _new_name() -> str:
    """Return a name that no other server can guess: it opens what the sites remember."""
    return secrets.token_hex(16)
