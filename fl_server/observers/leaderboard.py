"""Follow a run on the leaderboard: every finished round is stored, and served if asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import Signals
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING

from fl_common.errors import FedleagueError, StoppedError
from fl_common.logs import SERVER
from fl_server.config.run_config import RunConfig
from fl_server.results.evaluation import ShippedUseCase, evaluation_of
from fl_server.results.records import RoundRecord, RunInfo, RunOutcome, SubmissionInfo
from fl_server.results.run_status import SIGN_OF_LIFE_SECONDS, RunStatus
from fl_server.rounds.sites import Site
from tasks.contract import Arrays

if TYPE_CHECKING:
    from fl_server.leaderboard.store import Store

log = logging.getLogger(SERVER)


class BoardObserver:
    """Store a run in the leaderboard's database; does nothing where ``board.url`` is null.

    The database is reached, and the page's port bound, before any site is asked for anything. A
    SQLite file that does not exist yet is made only when the page is served or the run starts.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._store: Store | None = None
        self._run_id: int | None = None
        self._heartbeat = Event()
        """Set when the run is over."""
        self._last_round: int | None = None
        if config.board.url is not None and not self._can_wait():
            self._open()

    def __enter__(self) -> BoardObserver:
        board = self._config.board
        if board.url is not None and board.serve:
            from fl_server.leaderboard.web import serve_in_background

            try:
                handle = serve_in_background(board.url, board.host, board.port)
            except BaseException:
                self._stack.close()
                raise
            self._stack.enter_context(handle)
            self.url: str | None = handle.url
        return self

    def _can_wait(self) -> bool:
        """Say whether the database is a file that can be made, and is not there yet."""
        scheme, _, path = str(self._config.board.url).partition(":///")
        file = Path(path)
        nearest = next(folder for folder in file.absolute().parents if folder.exists())
        writable = nearest.is_dir() and os.access(nearest, os.W_OK)
        return scheme == "sqlite" and bool(path) and not file.exists() and writable

    def _open(self) -> Store:
        from fl_server.leaderboard.store import Store

        self._store = store = Store(str(self._config.board.url))
        self._stack.callback(store.close)
        return store

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._heartbeat.set()
        if error is not None:
            # Of an unforeseen error only the name: its text may hold anything.
            known = isinstance(error, FedleagueError | StoppedError)
            why = str(error) if known else f"an error nobody foresaw ({type(error).__name__})"
            self._end("stopped" if isinstance(error, KeyboardInterrupt) else "failed", why)
        self._stack.close()

    def _end(self, state: RunStatus, reason: str = "") -> None:
        if self._store is not None and self._run_id is not None:
            self._store.finish_run(self._run_id, state, reason)

    def open_run(
        self, arrays: Arrays, sites: Sequence[Site], finished: Sequence[RoundRecord] = ()
    ) -> str:
        """Register the run; a resumed run keeps its place.

        Parameters
        ----------
        sites : sequence of Site
            Whose held-out rows the run is scored on.
        finished : sequence of RoundRecord
            Rounds of the checkpoint. They are stored again: a server killed between writing its
            checkpoint and storing the round would otherwise leave a gap.

        Returns
        -------
        str
            What the user should know: why the run is not ranked with the others, or nothing.
        """
        self._last_round = finished[-1].round if finished else None
        if self._config.board.url is None:
            return ""
        store = self._store or self._open()
        config = self._config
        submission = SubmissionInfo(
            team=config.submission.team,
            model=config.model.name,
            params=dict(config.model.params),
            claimed=config.submission.claimed,
            num_parameters=sum(a.size for a in arrays.values()) or None,
        )
        info = RunInfo(
            key=str(config.folder.resolve()),
            usecase=config.usecase,
            submission=submission,
            strategy=config.strategy_name,
            runtime=config.runtime.name,
            seed=config.seed,
            num_rounds=config.rounds,
            config=dict(config.resolved),
            evaluation=evaluation_of(config, sites),
            shipped=ShippedUseCase(config.shipped.usecase, evaluation_of(config.shipped))
            if config.shipped
            else None,
        )
        self._run_id = store.open_run(info)
        for record in finished:
            store.record_round(self._run_id, record)
        if finished:
            store.drop_rounds_after(self._run_id, finished[-1].round)
        arguments = (store, self._run_id)
        Thread(target=self._give_signs_of_life, args=arguments, daemon=True).start()
        if not (reason := store.run(self._run_id).apart):
            return ""
        slug = config.usecase.slug
        return (
            f"{reason}: the leaderboard lists this run apart from the ranking of '{slug}'; "
            "usecase.slug=NAME gives it a ranking of its own"
        )

    def stopped(self, signal: Signals) -> str:
        """Say what was done when a person or the system ended the run, and how to go on."""
        text = f"stopped by the organiser ({signal.name})"
        if self._last_round is None:
            return f"{text} before the baseline was evaluated; start it anew"
        done = f"round {self._last_round}" if self._last_round else "the baseline"
        return f"{text} after {done}; continue with fl-server resume={self._config.folder}"

    def admitted(self, sites: list[Site]) -> None:
        """Sites are stored with their first record."""

    def round_finished(self, record: RoundRecord) -> None:
        """Store a round."""
        self._last_round = record.round
        if self._store is not None and self._run_id is not None:
            self._store.record_round(self._run_id, record)

    def finished(self, outcome: RunOutcome) -> None:
        """Close the run."""
        if outcome.failure:
            self._end("failed", outcome.failure)
        elif outcome.stopped_early:
            self._end("finished", f"stopped early after round {outcome.rounds[-1].round}")
        else:
            self._end("finished")

    def _give_signs_of_life(self, store: Store, run_id: int) -> None:
        while not self._heartbeat.wait(SIGN_OF_LIFE_SECONDS):
            try:
                store.sign_of_life(run_id)
            except FedleagueError as error:
                log.debug("no sign of life: %s", error)
