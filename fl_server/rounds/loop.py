"""The round loop: baseline, then train, evaluate, record and checkpoint.

The same loop runs on every grid. How a phase reaches the sites is the exchange's; what a strategy
and the sites carry from round to round is the memory's; here are the order of a round, its score,
the model of record and when to stop.
"""

from __future__ import annotations

import time
from typing import Protocol

from fl_server.config.run_config import RunConfig
from fl_server.results.checkpoint import Checkpoint, write_checkpoint
from fl_server.results.records import RoundRecord, RunOutcome
from fl_server.results.scoring import final_round
from fl_server.rounds.early_stopping import should_stop
from fl_server.rounds.exchange import Exchange, TrainOutcome
from fl_server.rounds.run_memory import RunMemory
from fl_server.rounds.run_state import RunState
from fl_server.rounds.sites import Site
from strategies.snapshot import snapshot
from tasks.contract import HOLDOUT, VALIDATION, Arrays, Task


class Observer(Protocol):
    """Whoever follows a run: the progress display, the leaderboard."""

    def admitted(self, sites: list[Site]) -> None:
        """Hear, once, who takes part."""

    def round_finished(self, record: RoundRecord) -> None:
        """Hear of each finished round, round 0 included."""


class RoundLoop:
    """Drive one run.

    Parameters
    ----------
    validates : bool
        Whether the sites have validation rows; they choose the round whose model counts.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        state: RunState,
        memory: RunMemory,
        exchange: Exchange,
        *,
        validates: bool = False,
    ) -> None:
        self._config = config
        self._task = task
        self._state = state
        self._memory = memory
        self._exchange = exchange
        self._validates = validates

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
        stopping, rule = config.early_stopping, config.usecase.score
        records = list(resumed.rounds) if resumed else []
        best = resumed.best if resumed else None
        if resumed:
            arrays = resumed.model
            self._memory.resume(resumed)
        stopped = should_stop(records, stopping, rule)
        for number in range(len(records), config.rounds + 1):
            if stopped:
                break
            arrays, record = self._round(number, arrays)
            records.append(record)
            judged = record.validation_score is not None
            if judged and final_round(records, rule) is record:
                best = arrays
            self._save(fingerprint, arrays, best, records)
            for observer in observers:
                observer.round_finished(record)
            stopped = should_stop(records, stopping, rule)
        final = best if best is not None else arrays
        return RunOutcome(final, tuple(records), stopped)

    def _round(self, number: int, arrays: Arrays) -> tuple[Arrays, RoundRecord]:
        started = time.monotonic()
        trained = self._exchange.train(number, arrays) if number else TrainOutcome()
        arrays = trained.arrays if trained.arrays is not None else arrays
        splits = (VALIDATION, HOLDOUT) if self._validates else (HOLDOUT,)
        evaluated = [self._exchange.evaluate(number, arrays, split) for split in splits]
        cards = [self._task.finalise(found.stats, self._state.fitted) for found in evaluated]
        card, path = cards[-1], self._config.usecase.score.path
        score, why_absent = card.look_up(path)
        sites = sum((found.sites for found in evaluated), trained.sites)
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
            epsilon=self._memory.epsilon,
            validation_score=cards[0].look_up(path)[0] if self._validates else None,
            strategy_metrics=trained.strategy_metrics,
        )
        return arrays, record

    def _save(
        self, fingerprint: str, arrays: Arrays, best: Arrays | None, records: list[RoundRecord]
    ) -> None:
        strategy_arrays, numbers = snapshot(self._memory.strategy)
        checkpoint = Checkpoint(
            fingerprint=fingerprint,
            fitted=self._state.fitted,
            rounds=tuple(records),
            model=arrays,
            strategy_arrays=strategy_arrays,
            strategy_numbers=numbers,
            best=best,
            run=self._state.run,
            site_memory=self._memory.client_state(),
        )
        write_checkpoint(self._config.folder, checkpoint)
