"""Follow a run on the leaderboard: every finished round is stored, and served if asked for."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from fl_server.config import RunConfig
from fl_server.records import RoundRecord, RunInfo, SubmissionInfo
from fl_server.roster import Member
from fl_server.rounds import Outcome
from tasks.contract import Arrays


class BoardObserver:
    """Store a run in the leaderboard's database; does nothing where ``board.url`` is null.

    The database is opened, and the page's port bound, before any site is asked for anything.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._stack = ExitStack()
        self._store = None
        self._run_id: int | None = None
        if config.board.url is None:
            return
        from fl_server.leaderboard.store import Store

        self._store = Store(config.board.url)
        self._stack.callback(self._store.close)

    def __enter__(self) -> BoardObserver:
        if self._store is not None and self._config.board.serve:
            from fl_server.leaderboard.web import serve_in_background

            board = self._config.board
            handle = serve_in_background(str(board.url), board.host, board.port)
            self._stack.enter_context(handle)
            self.url: str | None = handle.url
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._store is not None and self._run_id is not None and error is not None:
            self._store.finish_run(self._run_id, "failed", reason=str(error))
        self._stack.close()

    def open_run(self, arrays: Arrays) -> None:
        """Register the run; a resumed run keeps its place."""
        if self._store is None:
            return
        config = self._config
        submission = SubmissionInfo(
            team=config.team,
            model=config.model.name,
            params=dict(config.model.params),
            claimed=config.claimed,
            num_parameters=sum(a.size for a in arrays.values()),
        )
        info = RunInfo(
            key=str(config.folder.resolve()),
            usecase=config.usecase,
            submission=submission,
            strategy=config.strategy_name,
            runtime=config.runtime_name,
            seed=config.seed,
            num_rounds=config.rounds,
            config=dict(config.resolved),
        )
        self._run_id = self._store.open_run(info)

    def enrolled(self, members: list[Member]) -> None:
        """Sites are stored with their first record."""

    def round_finished(self, record: RoundRecord) -> None:
        """Store a round."""
        if self._store is not None and self._run_id is not None:
            self._store.record_round(self._run_id, record)

    def finished(self, outcome: Outcome) -> None:
        """Close the run."""
        if self._store is not None and self._run_id is not None:
            status = "stopped" if outcome.stopped_early else "finished"
            self._store.finish_run(self._run_id, status)
