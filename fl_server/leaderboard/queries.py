"""What the store reads: functions from a session to views, with a fixed number of queries."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import ColumnElement, Executable, and_, func, or_, select
from sqlalchemy.orm import Session

from fl_server.leaderboard import standings, views
from fl_server.leaderboard.tables import Metric, Round, Run, Site, SiteRow, Submission, UseCase
from fl_server.results.columns import RoundColumns, SiteColumns, columns_of
from tasks.scores import MetricPath


def usecase(session: Session, slug: str) -> UseCase | None:
    """Return a use case's row."""
    return session.scalar(select(UseCase).where(UseCase.slug == slug))


def usecases(session: Session) -> list[views.UseCaseView]:
    """Return every use case, the latest activity first."""
    found = session.scalars(select(UseCase).order_by(UseCase.updated_at.desc())).all()
    heads: dict[int, list[Any]] = defaultdict(list)
    for head in _heads(session):
        heads[head.usecase_id].append(head)
    kept = _evaluations(session)
    boards = [(case, standings.boards(heads[case.id], case, kept)) for case in found]
    return [standings.usecase_view(case, board) for case, board in boards]


def usecase_view(session: Session, case: UseCase) -> views.UseCaseView:
    """Return one use case."""
    return standings.usecase_view(case, _boards(session, case))


def leaderboard(session: Session, case: UseCase) -> views.LeaderboardView:
    """Return a use case's ranking, best first."""
    ranked, *apart = boards = _boards(session, case)
    curves, cells = _curves(session, case.id), _cells(session, case, boards)

    def entries(board: standings.Board) -> list[views.EntryView]:
        return [
            standings.entry(place, board, case, curves.get(run_id, []), cells.get(run_id, {}))
            for place in board.places
            for run_id in (place.row.head.id,)
        ]

    return views.LeaderboardView(
        standings.usecase_view(case, boards),
        len(ranked.places),
        entries(ranked),
        [views.ApartView(board.reason, entries(board)) for board in apart],
    )


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
    ids = {item.round: item.id for item in recorded}
    first, final = (ids.get(-1 if number is None else number) for number in (0, this.final_round))
    metrics = _metrics(session, [item for item in (first, final) if item is not None])
    comparison = views.compare(
        *(None if item is None else metrics[item] for item in (first, final))
    )
    apart = standings.reason_apart(_boards(session, case), run_id)
    return standings.run_view(this, submission, case, recorded, comparison, apart=apart)


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
            **standings.summary(item),
            metrics=metrics[item.id],
            sites=sites[item.id],
            arrays=item.arrays,
            attributions=item.attributions,
        )
        for item in recorded
    ]


def _boards(session: Session, case: UseCase) -> list[standings.Board]:
    heads = _heads(session, Run.usecase_id == case.id)
    return standings.boards(heads, case, _evaluations(session, Run.usecase_id == case.id))


def _evaluations(session: Session, *where: ColumnElement[bool]) -> dict[str, dict[str, Any]]:
    """Return every evaluation once, by its fingerprint."""
    first = select(func.min(Run.id)).where(*where).group_by(Run.evaluation_fingerprint)
    found = select(Run.evaluation_fingerprint, Run.evaluation).where(Run.id.in_(first))
    return {mark: parts for mark, parts in _all(session, found) if mark is not None}


def _heads(session: Session, *where: ColumnElement[bool]) -> list[Any]:
    """Return one row per run: who, and where it stands; in order of entry."""
    statement = (
        select(
            *(Run.id, Run.usecase_id, Run.strategy, Run.status, Run.reason),
            *(Run.score_name, Run.score_direction, Run.evaluation_fingerprint, Run.custom),
            *(Run.num_rounds, Run.num_rounds_done, Run.final_round),
            *(Run.baseline_score, Run.final_score, Run.started_at, Run.updated_at),
            Run.last_sign_at,
            *(Submission.team, Submission.model, Submission.params, Submission.claimed),
            *(Submission.num_parameters, Submission.created_at),
        )
        .join(Submission, Run.submission_id == Submission.id)
        .where(*where)
        .order_by(Run.id)
    )
    return _all(session, statement)


def _curves(session: Session, usecase_id: int) -> dict[int, list[Any]]:
    """Return every run's rounds, in order."""
    statement = (
        select(
            *(Round.run_id, Round.round, Round.score, Round.num_sites, Round.num_sites_ok),
            *(getattr(Round, name) for name in columns_of(RoundColumns)),
        )
        .join(Run, Run.id == Round.run_id)
        .where(Run.usecase_id == usecase_id)
        .order_by(Round.run_id, Round.round)
    )
    curves: dict[int, list[Any]] = defaultdict(list)
    for row in _all(session, statement):
        curves[row.run_id].append(row)
    return curves


def _cells(
    session: Session, case: UseCase, boards: list[standings.Board]
) -> dict[int, standings.Cells]:
    """Return the final round's score and declared columns of every run."""
    wanted = {board.rule.name for board in boards} | {*case.extra_columns}
    names = {MetricPath.parse(name): name for name in wanted}
    statement = (
        select(Round.run_id, Metric.scope, Metric.name, Metric.value, Metric.absent)
        .join(Round, Round.id == Metric.round_id)
        .join(Run, and_(Run.id == Round.run_id, Run.final_round == Round.round))
        .where(
            Run.usecase_id == case.id,
            or_(*(and_(Metric.scope == path.scope, Metric.name == path.name) for path in names)),
        )
    )
    cells: dict[int, standings.Cells] = defaultdict(dict)
    for run_id, scope, name, value, absent in _all(session, statement):
        cells[run_id][names[MetricPath(scope, name)]] = views.CellView(value, absent)
    return cells


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
    sent = SiteRow
    columns = (sent.phase, sent.status, sent.num_examples, sent.seconds, sent.bytes_up)
    more = (sent.bytes_down, sent.loss, sent.reason)
    further = [getattr(sent, name) for name in columns_of(SiteColumns)]
    statement = (
        select(sent.round_id, Site.name.label("site"), *columns, *more, *further)
        .join(Site, Site.id == sent.site_id)
        .where(sent.round_id.in_(round_ids))
        .order_by(sent.round_id, Site.name, sent.phase.desc())
    )
    found: dict[int, list[views.SiteView]] = defaultdict(list)
    for row in _all(session, statement):
        found[row.round_id].append(
            views.SiteView(**{k: v for k, v in row._mapping.items() if k != "round_id"})
        )
    return found


def _all(session: Session, statement: Executable) -> list[Any]:
    return list(session.execute(statement))
