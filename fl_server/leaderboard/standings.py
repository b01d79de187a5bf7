"""From the rows that the queries return to ranked views; pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fl_server.config.usecase import ScoreRule
from fl_server.leaderboard import ranking, views
from fl_server.leaderboard.tables import Round, Run, Submission, UseCase
from fl_server.results.columns import RoundColumns, columns_of
from fl_server.results.evaluation import Evaluation, agrees, differing
from fl_server.results.run_status import (
    LOST_AFTER_SECONDS,
    RANKED,
    RunStatus,
    is_lost,
    lost_reason,
)

NUM_TOP_ENTRIES = 5

Cells = dict[str, views.CellView]
"""A run's cells, by ``scope/metric`` name."""


@dataclass(frozen=True)
class State:
    """A run's state as its readers see it."""

    name: RunStatus
    reason: str
    updated_at: datetime
    """Moves when the run is lost, too."""


def state_of(run: Any, now: datetime | None = None) -> State:
    """Return the recorded state, or ``lost`` where a running run has been silent for too long."""
    if not is_lost(run.status, run.last_sign_at, now or datetime.now(UTC)):
        return State(run.status, run.reason, run.updated_at)
    since = run.last_sign_at + timedelta(seconds=LOST_AFTER_SECONDS)
    return State("lost", lost_reason(run.last_sign_at), max(run.updated_at, since))


@dataclass(frozen=True)
class Standing:
    """A run as ``ranking.rank`` takes it."""

    head: Any
    state: State
    score: float | None
    submitted_at: datetime


Places = list[ranking.Ranked[Standing]]


@dataclass(frozen=True)
class Board:
    """Runs that are ranked together, best first."""

    rule: ScoreRule
    places: Places
    reason: str = ""
    """Why they are apart; empty for a use case's ranking."""


def boards(heads: list[Any], case: UseCase, evaluations: Mapping[str, Evaluation]) -> list[Board]:
    """Return a use case's ranking, and after it the runs that are not comparable, by the reason.

    The ranking is of the runs evaluated as the use case ships; where that is not known, as its
    first run. Runs from before evaluations were kept are the ranking until there is such a run.
    """
    groups: dict[_Evaluated, list[Any]] = defaultdict(list)
    for head in heads:
        groups[_Evaluated.of(head)].append(head)
    main = _reference(groups, case, evaluations)
    apart = [
        Board(kind.rule, _places(found, kind.rule), _reason(kind, main, case, evaluations))
        for kind, found in groups.items()
        if kind != main
    ]
    return [Board(main.rule, _places(groups.get(main, []), main.rule)), *apart]


def reason_apart(found: list[Board], run_id: int) -> str:
    """Return why a run is not ranked with the others; empty where it is."""
    mine = (board.reason for board in found if any(run_id == p.row.head.id for p in board.places))
    return next(mine, "")


@dataclass(frozen=True)
class _Evaluated:
    """What must be equal for runs to be ranked together."""

    rule: ScoreRule
    fingerprint: str | None
    custom: tuple[str, ...] = ()

    @classmethod
    def of(cls, head: Any) -> _Evaluated:
        rule = ScoreRule(head.score_name, head.score_direction)
        return cls(rule, head.evaluation_fingerprint, tuple(head.custom))


def _reference(
    groups: Mapping[_Evaluated, list[Any]], case: UseCase, evaluations: Mapping[str, Evaluation]
) -> _Evaluated:
    """Return what the use case's ranking is evaluated on: of the runs that could be, the first."""
    kept = case.evaluation or {}
    able = [
        (
            all(state_of(head).name not in RANKED for head in found),
            kind.fingerprint is None,
            found[0].id,
        )
        for kind, found in groups.items()
        if not kind.custom
        and kind.rule == _rule(case)
        and (kind.fingerprint is None or agrees(evaluations[kind.fingerprint], kept))
    ]
    first = min(able, default=(True, True, -1))[2]
    kinds = (kind for kind, found in groups.items() if found[0].id == first)
    return next(kinds, _Evaluated(_rule(case), None))


def _reason(
    kind: _Evaluated, main: _Evaluated, case: UseCase, evaluations: Mapping[str, Evaluation]
) -> str:
    if kind.custom:
        return f"custom evaluation: {_differ(kind.custom)}"
    if kind.rule != main.rule:
        return f"scored by {kind.rule.name}, not by {main.rule.name}"
    if kind.fingerprint is None:
        return "not comparable: from before it was recorded what runs are evaluated on"
    mine = evaluations[kind.fingerprint]
    other = evaluations.get(main.fingerprint or "", case.evaluation or {})
    return f"not comparable: {_differ(differing(mine, other))}"


def _differ(names: Sequence[str]) -> str:
    *most, last = names or ["evaluation"]
    if most:
        return f"{', '.join(most)} and {last} differ"
    return f"{last} differ" if last.endswith("s") else f"{last} differs"


def _places(heads: list[Any], rule: ScoreRule) -> Places:
    """Rank runs that run or have finished; others have no place."""
    standings = [
        Standing(head, state, head.final_score if state.name in RANKED else None, head.created_at)
        for head, state in ((head, state_of(head)) for head in heads)
    ]
    return ranking.rank(standings, rule)


def usecase_view(case: UseCase, found: list[Board]) -> views.UseCaseView:
    """Sum a use case up: its best runs are the ranking's."""
    best = [place.row for place in found[0].places if place.rank is not None]
    ranked = [place for board in found for place in board.places]
    return views.UseCaseView(
        id=case.id,
        title=case.title,
        slug=case.slug,
        description=case.description,
        task_type=case.task,
        score_formula_display=case.score_name,
        score_direction=case.score_direction,
        extra_columns=case.extra_columns,
        progress_status="Active",
        total_participants=len({place.row.head.team for place in ranked}),
        total_runs=len(ranked),
        num_running=sum(place.row.state.name == "running" for place in ranked),
        high_score=best[0].score if best else None,
        top_leaderboard_entries=[
            views.TopEntryView(item.head.id, item.head.team, item.score)
            for item in best[:NUM_TOP_ENTRIES]
        ],
        created_date=case.created_at,
        updated_date=max([case.updated_at, *(place.row.state.updated_at for place in ranked)]),
    )


def entry(
    place: ranking.Ranked[Standing],
    board: Board,
    case: UseCase,
    recorded: list[Any],
    cells: Cells,
) -> views.EntryView:
    """Return one line of the ranking from its place, its rounds and its final cells."""
    head, state = place.row.head, place.row.state
    last = recorded[-1] if recorded else None
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
        improvement=board.rule.improvement(head.baseline_score, head.final_score),
        subgroups={
            name: cells.get(name, views.CellView(absent="not measured"))
            for name in case.extra_columns
        },
        strategy=head.strategy,
        status=state.name,
        note="" if place.rank else _note(head, state, cells.get(board.rule.name)),
        num_rounds=head.num_rounds,
        num_rounds_done=head.num_rounds_done,
        num_sites=last.num_sites if last else 0,
        num_sites_ok=last.num_sites_ok if last else 0,
        **_columns(head, recorded),
        curve=[(item.round, item.score) for item in recorded],
        created_date=head.started_at,
        updated_date=state.updated_at,
    )


def _columns(head: Any, recorded: list[Any]) -> dict[str, float | None]:
    """Return a run's declared columns, each from the round that its declaration names."""
    last = recorded[-1] if recorded else None
    final = next((item for item in recorded if item.round == head.final_round), None)
    return {
        name: getattr(final if column.of_final_round else last, name, None)
        for name, column in columns_of(RoundColumns).items()
    }


def _rule(case: UseCase) -> ScoreRule:
    return ScoreRule(case.score_name, case.score_direction)


def _note(head: Any, state: State, score: views.CellView | None) -> str:
    """Say why a run has no place."""
    if state.name not in RANKED:
        return state.reason or state.name
    if head.final_round is None:
        return "no round finished yet" if state.name == "running" else "no round finished"
    return (score.absent if score else None) or "the score is absent"


def run_view(
    run: Run,
    submission: Submission,
    case: UseCase,
    recorded: Sequence[Round],
    metrics: list[views.ComparisonView],
    *,
    apart: str,
) -> views.RunView:
    """Return one run with its metrics and round summaries."""
    state = state_of(run)
    rule = ScoreRule(run.score_name, run.score_direction)
    return views.RunView(
        id=run.id,
        key=run.key,
        usecase_slug=case.slug,
        usecase_title=case.title,
        score_formula_display=run.score_name,
        score_direction=rule.direction,
        team_name=submission.team,
        model=submission.model,
        params=submission.params,
        num_parameters=submission.num_parameters,
        claimed_score=submission.claimed,
        baseline_score=run.baseline_score,
        final_score=run.final_score,
        final_round=run.final_round,
        improvement=rule.improvement(run.baseline_score, run.final_score),
        strategy=run.strategy,
        runtime=run.runtime,
        seed=run.seed,
        config=run.config,
        apart=apart,
        evaluation=run.evaluation,
        evaluation_fingerprint=run.evaluation_fingerprint,
        status=state.name,
        reason=state.reason,
        num_rounds=run.num_rounds,
        num_rounds_done=run.num_rounds_done,
        curve=[(item.round, item.score) for item in recorded],
        metrics=metrics,
        rounds=[views.RoundSummaryView(**summary(item)) for item in recorded],
        created_date=run.started_at,
        updated_date=state.updated_at,
        finished_date=run.finished_at,
    )


def summary(item: Round) -> dict[str, Any]:
    """Return the fields of a ``RoundSummaryView``."""
    first = ("round", "phase", "status", "reason", "score", "train_loss", "seconds")
    more = ("bytes_up", "bytes_down", "num_sites", "num_sites_ok")
    fields = (*first, *more, *columns_of(RoundColumns))
    return {name: getattr(item, name) for name in fields} | {"recorded_date": item.recorded_at}
