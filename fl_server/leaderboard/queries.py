"""What the store reads: functions from a session to views, with a fixed number of queries."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Executable, and_, or_, select
from sqlalchemy.orm import Session

from fl_server.leaderboard import ranking, views
from fl_server.leaderboard.tables import Metric, Round, Run, Site, SiteRecord, Submission, UseCase
from fl_server.records import ScoreRule

NUM_TOP_ENTRIES = 5

Cells = dict[str, views.CellView]
"""A run's cells, by ``scope/metric`` name."""


@dataclass(frozen=True)
class _Standing:
    """A run as ``ranking.rank`` takes it."""

    head: Any
    score: float | None
    submitted_at: datetime


Places = list[ranking.Ranked[_Standing]]


def usecase(session: Session, slug: str) -> UseCase | None:
    """Return a use case's row."""
    return session.scalar(select(UseCase).where(UseCase.slug == slug))


def usecases(session: Session) -> list[views.UseCaseView]:
    """Return every use case, the latest activity first."""
    found = session.scalars(select(UseCase).order_by(UseCase.updated_at.desc())).all()
    heads: dict[int, list[Any]] = defaultdict(list)
    for head in _heads(session):
        heads[head.usecase_id].append(head)
    return [_usecase_view(case, _places(heads[case.id], case)) for case in found]


def usecase_view(session: Session, case: UseCase) -> views.UseCaseView:
    """Return one use case."""
    return _usecase_view(case, _places(_heads(session, Run.usecase_id == case.id), case))


def leaderboard(session: Session, case: UseCase) -> views.LeaderboardView:
    """Return a use case's ranking, best first."""
    places = _places(_heads(session, Run.usecase_id == case.id), case)
    curves = _curves(session, case.id)
    cells = _cells(session, case)
    entries = [
        _entry(place, case, curves.get(place.row.head.id, []), cells.get(place.row.head.id, {}))
        for place in places
    ]
    return views.LeaderboardView(_usecase_view(case, places), len(entries), entries)


def run(session: Session, run_id: int) -> views.RunView | None:
    """Return one run with the metrics of its baseline and its final round."""
    found = session.execute(
        select(Run, Submission, UseCase)
        .join(Submission, Run.submission_id == Submission.id)
        .join(UseCase, Run.usecase_id == UseCase.id)
        .where(Run.id == run_id)
    ).one_or_none()
    if found is None:
        return None
    this, submission, case = found.tuple()
    recorded = session.scalars(
        select(Round).where(Round.run_id == run_id).order_by(Round.round)
    ).all()
    by_round = {item.round: item.id for item in recorded}
    first, final = (
        by_round.get(0),
        by_round.get(-1 if this.final_round is None else this.final_round),
    )
    metrics = _metrics(session, [item for item in (first, final) if item is not None])
    return views.RunView(
        id=this.id,
        key=this.key,
        usecase_slug=case.slug,
        usecase_title=case.title,
        score_formula_display=this.score_name,
        score_direction=case.score_direction,
        team_name=submission.team,
        model=submission.model,
        params=submission.params,
        num_parameters=submission.num_parameters,
        claimed_score=submission.claimed,
        baseline_score=this.baseline_score,
        final_score=this.final_score,
        final_round=this.final_round,
        improvement=ranking.improvement(
            this.baseline_score, this.final_score, case.score_direction
        ),
        strategy=this.strategy,
        runtime=this.runtime,
        seed=this.seed,
        config=this.config,
        status=this.status,
        reason=this.reason,
        num_rounds=this.num_rounds,
        num_rounds_done=this.num_rounds_done,
        curve=[(item.round, item.score) for item in recorded],
        metrics=views.compare(
            metrics[first] if first is not None else None,
            metrics[final] if final is not None else None,
        ),
        rounds=[views.RoundSummaryView(**_summary(item)) for item in recorded],
        created_date=this.started_at,
        updated_date=this.updated_at,
        finished_date=this.finished_at,
    )


def rounds(session: Session, run_id: int, since: int, limit: int | None) -> list[views.RoundView]:
    """Return a run's rounds with everything recorded."""
    recorded = session.scalars(
        select(Round)
        .where(Round.run_id == run_id, Round.round >= since)
        .order_by(Round.round)
        .limit(limit)
    ).all()
    ids = [item.id for item in recorded]
    metrics = _metrics(session, ids)
    sites = _sites(session, ids)
    return [
        views.RoundView(
            **_summary(item),
            metrics=metrics[item.id],
            sites=sites[item.id],
            arrays=item.arrays,
            attributions=item.attributions,
        )
        for item in recorded
    ]


def _heads(session: Session, *where: ColumnElement[bool]) -> list[Any]:
    """Return one row per run: who, and where it stands; in order of entry."""
    statement = (
        select(
            *(Run.id, Run.usecase_id, Run.score_name, Run.strategy, Run.status, Run.reason),
            *(Run.num_rounds, Run.num_rounds_done, Run.final_round),
            *(Run.baseline_score, Run.final_score, Run.started_at, Run.updated_at),
            *(Submission.team, Submission.model, Submission.params, Submission.claimed),
            *(Submission.num_parameters, Submission.created_at),
        )
        .join(Submission, Run.submission_id == Submission.id)
        .where(*where)
        .order_by(Run.id)
    )
    return _all(session, statement)


def _places(heads: list[Any], case: UseCase) -> Places:
    """Rank runs; a failed one, or one scored by something else, has no comparable score."""
    standings = [
        _Standing(
            head,
            head.final_score
            if head.status != "failed" and head.score_name == case.score_name
            else None,
            head.created_at,
        )
        for head in heads
    ]
    return ranking.rank(standings, ScoreRule(case.score_name, case.score_direction))


def _usecase_view(case: UseCase, places: Places) -> views.UseCaseView:
    best = [place.row for place in places if place.rank is not None]
    return views.UseCaseView(
        id=case.id,
        title=case.title,
        slug=case.slug,
        description=case.description,
        task_type=case.task,
        score_formula_display=case.score_name,
        score_direction=case.score_direction,
        subgroup_columns=case.subgroup_columns,
        progress_status="Active",
        total_participants=len({place.row.head.team for place in places}),
        total_runs=len(places),
        num_running=sum(place.row.head.status == "running" for place in places),
        high_score=best[0].score if best else None,
        top_leaderboard_entries=[
            views.TopEntryView(item.head.id, item.head.team, item.score)
            for item in best[:NUM_TOP_ENTRIES]
        ],
        created_date=case.created_at,
        updated_date=case.updated_at,
    )


def _entry(
    place: ranking.Ranked[_Standing], case: UseCase, recorded: list[Any], cells: Cells
) -> views.EntryView:
    head, last = place.row.head, recorded[-1] if recorded else None
    return views.EntryView(
        id=head.id,
        rank=place.rank,
        team_name=head.team,
        model=head.model,
        params=head.params,
        num_parameters=head.num_parameters,
        claimed_score=head.claimed,
        baseline_score=head.baseline_score,
        final_score=head.final_score,
        improvement=ranking.improvement(
            head.baseline_score, head.final_score, case.score_direction
        ),
        subgroups={
            name: cells.get(name, views.CellView(absent="not measured"))
            for name in case.subgroup_columns
        },
        strategy=head.strategy,
        status=head.status,
        note="" if place.rank else _note(head, case, cells.get(case.score_name)),
        num_rounds=head.num_rounds,
        num_rounds_done=head.num_rounds_done,
        num_sites=last.num_sites if last else 0,
        num_sites_ok=last.num_sites_ok if last else 0,
        curve=[(item.round, item.score) for item in recorded],
        created_date=head.started_at,
        updated_date=head.updated_at,
    )


def _note(head: Any, case: UseCase, score: views.CellView | None) -> str:
    """Say why a run has no place."""
    if head.status == "failed":
        return head.reason or "the run failed"
    if head.score_name != case.score_name:
        return f"scored by {head.score_name}, not by {case.score_name}"
    if head.final_round is None:
        return "no round finished yet" if head.status == "running" else "no round finished"
    return (score.absent if score else None) or "the score is absent"


def _curves(session: Session, usecase_id: int) -> dict[int, list[Any]]:
    """Return every run's rounds, in order."""
    statement = (
        select(Round.run_id, Round.round, Round.score, Round.num_sites, Round.num_sites_ok)
        .join(Run, Run.id == Round.run_id)
        .where(Run.usecase_id == usecase_id)
        .order_by(Round.run_id, Round.round)
    )
    curves: dict[int, list[Any]] = defaultdict(list)
    for row in _all(session, statement):
        curves[row.run_id].append(row)
    return curves


def _cells(session: Session, case: UseCase) -> dict[int, Cells]:
    """Return the final round's score and declared columns of every run."""
    names = {(*_split(name),): name for name in (case.score_name, *case.subgroup_columns)}
    statement = (
        select(Round.run_id, Metric.scope, Metric.name, Metric.value, Metric.absent)
        .join(Round, Round.id == Metric.round_id)
        .join(Run, and_(Run.id == Round.run_id, Run.final_round == Round.round))
        .where(
            Run.usecase_id == case.id,
            or_(*(and_(Metric.scope == scope, Metric.name == name) for scope, name in names)),
        )
    )
    cells: dict[int, Cells] = defaultdict(dict)
    for run_id, scope, name, value, absent in _all(session, statement):
        cells[run_id][names[scope, name]] = views.CellView(value, absent)
    return cells


def _split(column: str) -> tuple[str, str]:
    """Return scope and metric of a column's name; a bare metric is of all rows."""
    scope, _, name = column.rpartition("/")
    return scope or "overall", name


def _summary(item: Round) -> dict[str, Any]:
    first = ("round", "phase", "status", "reason", "score", "train_loss", "seconds")
    fields = (*first, "bytes_up", "bytes_down", "num_sites", "num_sites_ok")
    return {name: getattr(item, name) for name in fields} | {"recorded_date": item.recorded_at}


def _metrics(session: Session, round_ids: list[int]) -> dict[int, list[views.MetricView]]:
    """Return the metrics of rounds, by round id."""
    columns = (Metric.scope, Metric.name, Metric.value, Metric.absent, Metric.bound)
    statement = (
        select(Metric.round_id, *columns)
        .where(Metric.round_id.in_(round_ids))
        .order_by(Metric.round_id, Metric.scope, Metric.name)
    )
    found: dict[int, list[views.MetricView]] = defaultdict(list)
    for row in _all(session, statement):
        found[row.round_id].append(views.MetricView(*row[1:]))
    return found


def _sites(session: Session, round_ids: list[int]) -> dict[int, list[views.SiteView]]:
    """Return the site records of rounds, by round id."""
    sent = SiteRecord
    columns = (sent.phase, sent.status, sent.num_examples, sent.seconds, sent.bytes_up)
    statement = (
        select(sent.round_id, Site.name, *columns, sent.bytes_down, sent.loss, sent.reason)
        .join(Site, Site.id == sent.site_id)
        .where(sent.round_id.in_(round_ids))
        .order_by(sent.round_id, Site.name, sent.phase.desc())
    )
    found: dict[int, list[views.SiteView]] = defaultdict(list)
    for row in _all(session, statement):
        found[row.round_id].append(views.SiteView(*row[1:]))
    return found


def _all(session: Session, statement: Executable) -> list[Any]:
    return list(session.execute(statement))
