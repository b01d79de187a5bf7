"""The leaderboard's tables.

::

    usecase 1--n submission 1--n run 1--n round 1--n site_record n--1 site
                                                1--n metric

A metric is keyed by ``scope``: ``overall``, ``subgroups/<name>`` or ``blocks/<name>``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from fl_server.results.columns import RoundColumns, SiteColumns, columns_of
from fl_server.results.run_status import RunStatus


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time; SQLite, which has no zones, keeps it as naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC on the way in."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware UTC time on the way out."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of every table; constraints have stable names so that migrations can change them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        str: Text,
        float: Double,
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        dict[str, Any] | None: JSON(none_as_null=True),
        list[str]: JSON,
    }


class UseCase(Table):
    """A competition."""

    __tablename__ = "usecase"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    description: Mapped[str]
    task: Mapped[str]
    score_name: Mapped[str]
    score_direction: Mapped[str]
    extra_columns: Mapped[list[str]]
    evaluation: Mapped[dict[str, Any] | None]
    """What it is ranked by as shipped (``results.evaluation``); null where that is not known."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    """Moves whenever one of its runs does: what a page compares to know that it is stale."""


class Site(Table):
    """A data holder, by name."""

    __tablename__ = "site"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class Submission(Table):
    """A model that a team entered; the same team, model, parameters and claim are one entry."""

    __tablename__ = "submission"
    __table_args__ = (UniqueConstraint("usecase_id", "fingerprint"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    usecase_id: Mapped[int] = mapped_column(ForeignKey("usecase.id", ondelete="CASCADE"))
    fingerprint: Mapped[str]
    team: Mapped[str]
    model: Mapped[str]
    params: Mapped[dict[str, Any]]
    claimed: Mapped[float | None]
    num_parameters: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class Run(Table):
    """One submission executed on one federation."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    usecase_id: Mapped[int] = mapped_column(
        ForeignKey("usecase.id", ondelete="CASCADE"), index=True
    )
    submission_id: Mapped[int] = mapped_column(
        ForeignKey("submission.id", ondelete="CASCADE"), index=True
    )
    score_name: Mapped[str]
    score_direction: Mapped[str]
    """The score at launch: a run scored by something else must not be ranked."""
    evaluation: Mapped[dict[str, Any] | None]
    """What the run's scores are measured on; null for runs from before this was kept."""
    evaluation_fingerprint: Mapped[str | None]
    """Equal for equal evaluations, which alone are ranked together."""
    custom: Mapped[list[str]]
    """What of the use case the run has changed for itself."""
    strategy: Mapped[str]
    runtime: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    num_rounds: Mapped[int]
    config: Mapped[dict[str, Any]]
    status: Mapped[RunStatus] = mapped_column(Text)
    reason: Mapped[str]
    baseline_score: Mapped[float | None]
    final_score: Mapped[float | None]
    final_round: Mapped[int | None]
    num_rounds_done: Mapped[int]
    """Where the run stands, settled from its rounds whenever they change (``store._settle``)."""
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    last_sign_at: Mapped[datetime]
    """When the run last said that it is there (``results.run_status``)."""
    finished_at: Mapped[datetime | None]


class Round(Table):
    """One train and one evaluate exchange; round 0 is the baseline."""

    __tablename__ = "round"
    __table_args__ = (UniqueConstraint("run_id", "round"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"))
    round: Mapped[int]
    phase: Mapped[str]
    status: Mapped[str]
    reason: Mapped[str]
    score: Mapped[float | None]
    train_loss: Mapped[float | None]
    seconds: Mapped[float]
    bytes_up: Mapped[int] = mapped_column(BigInteger)
    bytes_down: Mapped[int] = mapped_column(BigInteger)
    num_sites: Mapped[int]
    num_sites_ok: Mapped[int]
    """Counted once when recorded, so that a ranking need not read every site record."""
    arrays: Mapped[dict[str, Any]]
    """Non-scalar results by scope, such as confusion matrices."""
    attributions: Mapped[dict[str, Any]]
    recorded_at: Mapped[datetime]


class SiteRow(Table):
    """The acknowledged record of one site in one exchange."""

    __tablename__ = "site_record"
    __table_args__ = (
        Index("ix_site_record_site_id", "site_id"),
        {"sqlite_with_rowid": False},
    )

    round_id: Mapped[int] = mapped_column(
        ForeignKey("round.id", ondelete="CASCADE"), primary_key=True
    )
    site_id: Mapped[int] = mapped_column(ForeignKey("site.id"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    reason: Mapped[str]
    num_examples: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    bytes_up: Mapped[int] = mapped_column(BigInteger)
    bytes_down: Mapped[int] = mapped_column(BigInteger)
    loss: Mapped[float | None]


class Metric(Table):
    """One metric of one scope in one round: a value, or why there is none."""

    __tablename__ = "metric"
    __table_args__ = (
        CheckConstraint("(value IS NULL) = (absent IS NOT NULL)", name="value_or_reason"),
        {"sqlite_with_rowid": False},
    )

    round_id: Mapped[int] = mapped_column(
        ForeignKey("round.id", ondelete="CASCADE"), primary_key=True
    )
    scope: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    absent: Mapped[str | None]
    bound: Mapped[float | None]


def _add_columns(table: type[Table], names: Iterable[str]) -> None:
    for name in names:
        setattr(table, name, mapped_column(Double, nullable=True))


_add_columns(Round, columns_of(RoundColumns))
_add_columns(SiteRow, columns_of(SiteColumns))
