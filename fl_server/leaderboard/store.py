"""The leaderboard's store: what is written, and what ``queries`` reads, as transactions.

Every method is one transaction and may be called from any thread; several processes may share a
database. Opening a store brings its schema up to date.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from alembic.util import CommandError
from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from fl_common.errors import ConfigError
from fl_server.config.usecase import ScoreRule
from fl_server.leaderboard import migrations, queries, rows, views
from fl_server.leaderboard.tables import (
    Metric,
    Round,
    Run,
    Site,
    SiteRow,
    Submission,
    Table,
    UseCase,
)
from fl_server.leaderboard.views import clean_text
from fl_server.results.records import RoundRecord, RunInfo
from fl_server.results.run_status import RECORDED, WITH_REASON, RunStatus
from fl_server.results.scoring import final_round

Found = TypeVar("Found")


class UnknownEntryError(ConfigError):
    """A use case or run that the store does not hold."""


class Store:
    """What every run recorded, in SQLite or PostgreSQL.

    Parameters
    ----------
    url : str
        ``sqlite:///board.sqlite`` (relative), ``sqlite:////abs/board.sqlite`` or
        ``postgresql://user:password@host/database``.

    Raises
    ------
    ConfigError
        If the address is malformed, or the database cannot be reached, read or written.
    """

    def __init__(self, url: str) -> None:
        self._url = migrations.parse_url(url)
        self._engine = migrations.connect(self._url)
        try:
            with self._cured():
                migrations.upgrade(self._engine)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    # ------------------------------------------------------------------ writing

    def open_run(self, info: RunInfo) -> int:
        """Register a run, or continue the one with the same key, and return its number.

        A use case that is there already is not changed.

        Raises
        ------
        ConfigError
            If the key belongs to another use case, team or model.
        """
        with self._session(write=True) as session:
            usecase_id, custom = _open_usecase(session, info)
            submission = rows.submission_values(info.submission, usecase_id)
            unknown = {"num_parameters"} if info.submission.num_parameters is None else set()
            submission_id = _upsert(
                *(session, Submission, submission, ["usecase_id", "fingerprint"]),
                keep={"created_at"} | unknown,
            )
            known = _owner(session, info.key)
            asked = (info.usecase.slug, info.submission.team, info.submission.model)
            if known is not None and known != tuple(map(clean_text, asked)):
                raise ConfigError(
                    f"run {info.key!r} is {' / '.join(known)}, not {' / '.join(asked)}: "
                    "start in another folder"
                )
            values = rows.run_values(info, usecase_id, submission_id, custom)
            run_id = _upsert(session, Run, values, ["key"], keep={"started_at"})
            _settle(session, run_id)
            return run_id

    def record_round(self, run_id: int, record: RoundRecord) -> None:
        """Store a round with its sites and metrics; recording it again replaces it.

        Raises
        ------
        UnknownEntryError
            If there is no such run.
        """
        with self._session(write=True) as session:
            _touch(session, run_id)
            session.execute(
                delete(Round).where(Round.run_id == run_id, Round.round == record.round)
            )
            values = rows.round_values(record) | {"run_id": run_id}
            round_id = session.execute(
                insert(Round).values(values).returning(Round.id)
            ).scalar_one()
            metrics = rows.metric_values(record, round_id)
            if metrics:
                session.execute(insert(Metric), metrics)
            if record.sites:
                ids = _site_ids(session, {clean_text(site.site) for site in record.sites})
                session.execute(insert(SiteRow), rows.site_values(record, round_id, ids))
            _settle(session, run_id)

    def drop_rounds_after(self, run_id: int, round: int) -> None:
        """Delete the rounds after ``round``: a resumed run will record them anew."""
        with self._session(write=True) as session:
            _touch(session, run_id)
            session.execute(delete(Round).where(Round.run_id == run_id, Round.round > round))
            _settle(session, run_id)

    def finish_run(self, run_id: int, status: RunStatus, reason: str = "") -> None:
        """Set a run's state; what was stopped or failed needs a reason.

        Raises
        ------
        ConfigError
            If the state does not exist, or lacks its reason.
        UnknownEntryError
            If there is no such run.
        """
        if status not in RECORDED:
            raise ConfigError(f"run status {status!r}: choose {', '.join(RECORDED)}")
        if status in WITH_REASON and not reason.strip():
            raise ConfigError(f"run status {status!r} needs a reason")
        with self._session(write=True) as session:
            ended = None if status in ("queued", "running") else datetime.now(UTC)
            _touch(session, run_id, status=status, reason=clean_text(reason), finished_at=ended)

    def sign_of_life(self, run_id: int) -> None:
        """Note that a run is still there; nothing else of it changes."""
        with self._session(write=True) as session:
            session.execute(
                update(Run).where(Run.id == run_id).values(last_sign_at=datetime.now(UTC))
            )

    # ------------------------------------------------------------------ reading

    def usecases(self) -> list[views.UseCaseView]:
        """Return every use case, the latest activity first."""
        with self._session() as session:
            return queries.usecases(session)

    def usecase(self, slug: str) -> views.UseCaseView:
        """Return one use case.

        Raises
        ------
        UnknownEntryError
            If there is no such use case.
        """
        with self._session() as session:
            return queries.usecase_view(session, _known(queries.usecase(session, slug), slug))

    def leaderboard(self, slug: str) -> views.LeaderboardView:
        """Return a use case's ranking, best first (five queries, whatever its size).

        Raises
        ------
        UnknownEntryError
            If there is no such use case.
        """
        with self._session() as session:
            return queries.leaderboard(session, _known(queries.usecase(session, slug), slug))

    def run(self, run_id: int) -> views.RunView:
        """Return one run with its metrics and round summaries.

        Raises
        ------
        UnknownEntryError
            If there is no such run.
        """
        with self._session() as session:
            return _known(queries.run(session, run_id), run_id)

    def rounds(
        self, run_id: int, since: int = 0, limit: int | None = None
    ) -> list[views.RoundView]:
        """Return a run's rounds from ``since`` on with everything recorded, at most ``limit``.

        Raises
        ------
        UnknownEntryError
            If there is no such run.
        """
        with self._session() as session:
            _known(session.scalar(select(Run.id).where(Run.id == run_id)), run_id)
            return queries.rounds(session, run_id, since, limit)

    # ------------------------------------------------------------------ plumbing

    @contextmanager
    def _session(self, write: bool = False) -> Iterator[Session]:
        engine = self._engine.execution_options(write=True) if write else self._engine
        with self._cured(), Session(engine) as session, session.begin():
            yield session

    @contextmanager
    def _cured(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, CommandError) as error:
            raise migrations.explain(error, self._url) from error


def _known(found: Found | None, wanted: object) -> Found:
    if found is None:
        kind = "run" if isinstance(wanted, int) else "use case"
        raise UnknownEntryError(f"the leaderboard holds no {kind} {wanted!r}")
    return found


def _upsert(
    session: Session, table: type[Table], values: dict[str, Any], keys: list[str], keep: set[str]
) -> int:
    """Insert a row or update the one with the same ``keys``, but for ``keep``; return its id."""
    dialect = session.get_bind().dialect.name
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    statement = make(table).values(values)
    changed = {name: statement.excluded[name] for name in values.keys() - keep - set(keys)}
    changed = changed or {keys[0]: statement.excluded[keys[0]]}
    statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
    return int(session.execute(statement.returning(table.__table__.c.id)).scalar_one())


def _open_usecase(session: Session, info: RunInfo) -> tuple[int, list[str]]:
    """Return the id of a run's use case, and what the run has changed of it for itself.

    The first run brings the use case, as shipped where that is known; no later one changes it.
    """
    shipped = info.shipped
    if shipped is not None and shipped.info.slug != info.usecase.slug:
        shipped = None
    usecase = rows.usecase_values(
        shipped.info if shipped else info.usecase, shipped.evaluation if shipped else None
    )
    keep = usecase.keys() - {"updated_at"}
    usecase_id = _upsert(session, UseCase, usecase, ["slug"], keep=set(keep))
    if shipped:  # where an earlier run could not say
        session.execute(
            update(UseCase)
            .where(UseCase.id == usecase_id, UseCase.evaluation.is_(None))
            .values(evaluation=usecase["evaluation"])
        )
    kept = session.execute(select(UseCase.__table__).where(UseCase.id == usecase_id)).one()
    return usecase_id, rows.customised(info, dict(kept._mapping))


def _owner(session: Session, key: str) -> tuple[str, str, str] | None:
    owner = session.execute(
        select(UseCase.slug, Submission.team, Submission.model)
        .select_from(Run)
        .join(UseCase, Run.usecase_id == UseCase.id)
        .join(Submission, Run.submission_id == Submission.id)
        .where(Run.key == clean_text(key))
    ).one_or_none()
    return None if owner is None else (owner.slug, owner.team, owner.model)


def _site_ids(session: Session, names: set[str]) -> dict[str, int]:
    """Return the sites' ids, registering new ones (in one order, so that writers cannot lock)."""
    known = {name: site_id for site_id, name in session.execute(select(Site.id, Site.name))}
    for name in sorted(names - known.keys()):
        known[name] = _upsert(session, Site, {"name": name}, ["name"], keep=set())
    return known


def _touch(session: Session, run_id: int, **changes: Any) -> None:
    """Change a run and note the time, there and at its use case."""
    now = datetime.now(UTC)
    usecase_id = session.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(updated_at=now, last_sign_at=now, **changes)
        .returning(Run.usecase_id)
    ).scalar_one_or_none()
    _known(usecase_id, run_id)
    session.execute(update(UseCase).where(UseCase.id == usecase_id).values(updated_at=now))


def _settle(session: Session, run_id: int) -> None:
    """Derive from its rounds where a run stands.

    A run that will fine-tune has no final round before its first such round is recorded.
    """
    columns = (Round.round, Round.status, Round.score, Round.__table__.c.validation_score)
    statement = select(*columns).where(Round.run_id == run_id).order_by(Round.round)
    recorded: list[Any] = list(session.execute(statement))
    num_rounds, direction = session.execute(
        select(Run.num_rounds, Run.score_direction).where(Run.id == run_id)
    ).one()
    final = None
    if recorded and recorded[-1].round >= min(num_rounds, 1):
        final = final_round(recorded, ScoreRule("score", direction))
    values = {
        "baseline_score": next((row.score for row in recorded if row.round == 0), None),
        "final_score": final.score if final is not None else None,
        "final_round": final.round if final is not None else None,
        "num_rounds_done": recorded[-1].round if recorded else 0,
    }
    session.execute(update(Run).where(Run.id == run_id).values(values))
