"""The round loop: baseline, then train, aggregate, evaluate, record and checkpoint.

The same loop runs on every grid. The strategy decides whom to ask and how to combine; who is
there, what a reply must look like, the metrics and the model of record are decided here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fl_common.errors import QuorumError
from fl_server.config.run_config import RunConfig, SitesConfig
from fl_server.results.checkpoint import Checkpoint, write_checkpoint
from fl_server.results.records import RoundRecord, RunOutcome, SiteRecord
from fl_server.results.scoring import score_of
from fl_server.rounds.admission import Admission
from fl_server.rounds.async_exchange import AsyncExchange
from fl_server.rounds.client_sampling import ClientSampling
from fl_server.rounds.client_state import ClientState, KeepsClientState
from fl_server.rounds.early_stopping import is_best, should_stop
from fl_server.rounds.exchange import Exchange
from fl_server.rounds.replies import RepliesSoFar, TrainCheck, pooled, verdict
from fl_server.rounds.reply_validation import cast_like
from fl_server.rounds.secagg_exchange import SecaggExchange
from fl_server.rounds.sites import Site, SiteGrid, addressed, seeded_sampling
from fl_server.rounds.strategy_errors import definition, failure
from strategies.privacy.modes import SecureAggregation
from strategies.requirements import requirements_of
from strategies.sampling import Sampler, Uniform
from strategies.snapshot import forget_tied_to_clients, restore, snapshot
from strategies.tree_replies import replies_whole
from strategies.wire.messages import CONFIG, EVALUATE, JOB, LOSS, ROUND, request
from strategies.wire.records import pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays, ScoreCard, Task, child_seed
from tasks.stats import Stats

log = logging.getLogger("fedleague.server")


class Observer(Protocol):
    """Whoever follows a run: the progress display, the leaderboard."""

    def admitted(self, members: list[Site]) -> None:
        """Hear, once, who takes part."""

    def round_finished(self, record: RoundRecord) -> None:
        """Hear of each finished round, round 0 included."""


@dataclass(frozen=True)
class _Trained:
    """Result of one training exchange; ``arrays`` is None when the previous model is kept."""

    arrays: Arrays | None
    status: str
    reason: str
    loss: float | None
    sites: tuple[SiteRecord, ...]


class RoundLoop:
    """Drive one run on one grid."""

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        task: Task,
        strategy: Strategy,
        admission: Admission,
        sampler: Sampler | None = None,
    ) -> None:
        self._grid = grid
        self._config = config
        self._task = task
        self._strategy = strategy
        self._admission = admission
        self._registry = admission.registry
        self._sampling = ClientSampling(sampler or Uniform(), config.seed)
        self._heard = RepliesSoFar()
        self._memories = ClientState(grid, self._registry)
        self._open: AsyncExchange | None = None
        if requirements_of(strategy).asynchronous:
            self._open = AsyncExchange(grid, self._registry, config.sites, admission.refresh)

    def run(
        self,
        arrays: Arrays,
        observers: list[Observer],
        fingerprint: str,
        resumed: Checkpoint | None,
    ) -> RunOutcome:
        """Run the baseline and the rounds, or what is left of them.

        Raises
        ------
        QuorumError
            If the baseline cannot be evaluated.
        CheckpointError
            If a checkpoint cannot be written.
        """
        config = self._config
        stopping, direction = config.early_stopping, config.usecase.score.direction
        records = list(resumed.rounds) if resumed else []
        best = resumed.best if resumed else None
        if resumed:
            arrays = resumed.model
            restore(self._strategy, resumed.strategy_arrays, resumed.strategy_numbers)
            self._remind_sites(resumed)
            self._memories.restore(records)
        stopped = should_stop(records, stopping, direction)
        self._sampling.note(records)
        self._heard.recall(records)
        for number in range(len(records), config.rounds + 1):
            if stopped:
                break
            arrays, record = self._round(number, arrays)
            if stopping.patience is not None and is_best(record, records, direction):
                best = arrays
            records.append(record)
            self._sampling.note([record])
            self._save(fingerprint, arrays, best, records)
            for observer in observers:
                observer.round_finished(record)
            stopped = should_stop(records, stopping, direction)
        final = best if stopped and best is not None else arrays
        return RunOutcome(final, tuple(records), stopped)

    def _remind_sites(self, resumed: Checkpoint) -> None:
        """Give simulated sites their memory back; real ones have it, or all start anew."""
        if isinstance(self._grid, KeepsClientState):
            self._grid.restore(resumed.site_memory)
        elif (sites := self._admission.forgetful()) and (
            pair := forget_tied_to_clients(self._strategy)
        ):
            self._admission.start_anew()
            why = "not remembered by %s: all sites start anew, and so does the strategy's %s"
            log.warning(why, ", ".join(sites), ", ".join(pair))

    def _round(self, number: int, arrays: Arrays) -> tuple[Arrays, RoundRecord]:
        started = time.monotonic()
        trained = _Trained(None, "ok", "", None, ())
        if number > 0:
            trained = self._train(number, arrays)
            arrays = trained.arrays if trained.arrays is not None else arrays
        card, evaluated = self._evaluate(number, arrays)
        score, why_absent = score_of(card, self._config.usecase.score)
        sites = trained.sites + evaluated
        record = RoundRecord(
            round=number,
            phase="finetune" if number else "baseline",
            status=trained.status,
            score=score,
            card=card,
            sites=sites,
            seconds=time.monotonic() - started,
            bytes_up=sum(site.bytes_up for site in sites),
            bytes_down=sum(site.bytes_down for site in sites),
            reason=trained.reason or why_absent,
            train_loss=trained.loss,
            epsilon=getattr(self._strategy, "epsilon", self._heard.epsilon),
        )
        return arrays, record

    def _train(self, number: int, arrays: Arrays) -> _Trained:
        """Train one round; whatever goes wrong in it, the previous model is kept."""
        before = snapshot(self._strategy)
        exchange = self._exchange("train", number)
        try:
            new, loss = self._aggregate(number, arrays, exchange)
            statuses = {record.status for record in exchange.records.values()}
            wanted = 1 if self._open is not None else self._config.sites.quorum or 1
            status, reason = verdict(new, statuses, self._heard.num_accepted, wanted)
            if new is not None:
                reason += definition(self._strategy) if status != "ok" else ""
                new = self._cast_like(new, arrays)
        except (Exception, SystemExit) as error:
            log.debug("strategy failed", exc_info=True)
            new, loss, status, reason = None, None, "failed", failure(self._strategy, error)
        if status != "ok":
            restore(self._strategy, *before)
            new = None
        sites = self._heard.annotated(self._by_site(exchange))
        self._memories.note(number, sites, succeeded=status == "ok")
        return _Trained(new, status, reason, loss, sites)

    def _aggregate(
        self, number: int, arrays: Arrays, exchange: Exchange | SecaggExchange
    ) -> tuple[Arrays | None, float | None]:
        members = self._admission.gather()
        if self._open is not None:
            members = self._open.free(members)
        chosen = self._sampling.names(number, members)
        grid = SiteGrid(self._grid, self._registry, chosen)
        config = ConfigRecord({JOB: self._admission.job, ROUND: number})
        if isinstance(exchange, SecaggExchange):
            config.update(exchange.first_config(self._strategy))
        with seeded_sampling(child_seed(self._config.seed, "sample", number)):
            asked = self._strategy.configure_train(number, pack_arrays(arrays), config, grid)
        messages = self._memories.addressed(asked)
        expected = requirements_of(self._strategy).expected_extra
        extra = expected() if expected is not None else {}
        model = self._admission.growing
        growing = (model, replies_whole(self._strategy)) if model is not None else None
        self._heard.num_accepted = 0
        screen = TrainCheck(self._heard, self._config, arrays, extra=extra, growing=growing)
        replies: Iterable[Message]
        if isinstance(exchange, SecaggExchange):
            replies = exchange.train(messages, arrays, extra)
            self._heard.num_accepted = len(replies)
        else:
            replies = exchange.replies(messages, screen)
        record, metrics = self._strategy.aggregate_train(number, replies)
        loss = metrics.get(LOSS) if metrics is not None else None
        if self._config.train.dp is not None:
            loss = None  # the sites keep it
        return (
            unpack_arrays(record) if record is not None else None,
            float(loss) if isinstance(loss, int | float) else None,
        )

    def _cast_like(self, new: Arrays, sent: Arrays) -> Arrays:
        """Require the weights that the sites know, or a whole booster."""
        if self._admission.growing is None:
            return cast_like(new, sent, definition(self._strategy))
        self._admission.growing.load(new)
        return new

    def _evaluate(self, number: int, arrays: Arrays) -> tuple[ScoreCard, tuple[SiteRecord, ...]]:
        """Pool the metric summands of every connected site and finalise them once.

        An asynchronous strategy's sites that still train are asked in the last round only: until
        then they would hold up all others.
        """
        exchange = self._exchange("evaluate", number)
        content = request(self._admission.job, number, pack_arrays(arrays))
        per_row: int = getattr(self._task, "counts_per_row", 1)
        members, blank = self._admission.gather(), self._admission.empty_stats
        unasked: dict[str, SiteRecord] = {}
        if self._open is not None and self._open.is_concurrent and number < self._config.rounds:
            unasked = self._open.unasked(members, "evaluate")
            members = self._open.free(members)
        if isinstance(exchange, SecaggExchange):
            record_of(content, CONFIG, ConfigRecord).update(exchange.first_config(self._strategy))
        messages = self._memories.addressed(addressed(content, EVALUATE, members))
        if isinstance(exchange, SecaggExchange):
            running = exchange.evaluate(messages, blank or Stats(), per_row)
        else:
            running = pooled(exchange, messages, blank, per_row)
        answered = [r for r in exchange.records.values() if r.status == "ok"]
        wanted = max((self._config.sites.quorum or 1) - len(unasked), 1)
        if len(answered) < wanted:
            why = "; ".join(f"{r.site}: {r.reason}" for r in exchange.records.values() if r.reason)
            raise QuorumError(
                f"round {number}: {len(answered)} of {wanted} sites evaluated the model"
                f"{' (' + why + ')' if why else ''}; the last finished round is saved, "
                "continue with resume=true"
            )
        exchange.records |= unasked
        return self._task.finalise(running, self._admission.fitted), self._by_site(exchange)

    def _exchange(self, phase: str, number: int) -> Exchange | SecaggExchange:
        refresh, privacy = self._admission.refresh, self._config.privacy
        if self._open is not None and phase == "train":
            self._open.begin(number)
            return self._open

        def make(sites: SitesConfig) -> Exchange:
            return Exchange(self._grid, self._registry, sites, phase=phase, refresh=refresh)

        if isinstance(privacy, SecureAggregation):
            base = ConfigRecord({JOB: self._admission.job, ROUND: number})
            return SecaggExchange(privacy, make, self._config.sites, phase, base)
        return make(self._config.sites)

    def _by_site(self, exchange: Exchange | SecaggExchange) -> tuple[SiteRecord, ...]:
        """List the records by site; a site that is not connected is named too."""
        records = dict(exchange.records)
        online = {member.name for member in self._registry.online(self._grid)}
        for member in self._registry:
            if member.name not in online and member.name not in records:
                records[member.name] = SiteRecord(
                    member.name, exchange.phase, "absent", reason="site is not connected"
                )
        return tuple(records[site] for site in sorted(records))

    def _save(
        self, fingerprint: str, arrays: Arrays, best: Arrays | None, records: list[RoundRecord]
    ) -> None:
        strategy_arrays, numbers = snapshot(self._strategy)
        checkpoint = Checkpoint(
            fingerprint=fingerprint,
            fitted=self._admission.fitted,
            rounds=tuple(records),
            model=arrays,
            strategy_arrays=strategy_arrays,
            strategy_numbers=numbers,
            best=best,
            run=self._admission.run,
            site_memory=self._grid.client_state()
            if isinstance(self._grid, KeepsClientState)
            else {},
        )
        write_checkpoint(self._config.folder, checkpoint)
