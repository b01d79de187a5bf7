"""From the rows that the queries return to ranked views; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fl_server.config.usecase import ScoreRule
from fl_server.leaderboard import ranking, views
from fl_server.leaderboard.tables import Round, Run, Submission, UseCase
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


def places(heads: list[Any], case: UseCase) -> Places:
    """Rank runs that run or have finished and are scored alike; others have no place."""
    standings = [
        Standing(
            head,
            state,
            head.final_score
            if state.name in RANKED and head.score_name == case.score_name
            else None,
            head.created_at,
        )
        for head, state in ((head, state_of(head)) for head in heads)
    ]
    return ranking.rank(standings, _rule(case))


def usecase_view(case: UseCase, ranked: Places) -> views.UseCaseView:
    """Sum a use case up."""
    best = [place.row for place in ranked if place.rank is not None]
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
    place: ranking.Ranked[Standing], case: UseCase, recorded: list[Any], cells: Cells
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
        improvement=_rule(case).improvement(head.baseline_score, head.final_score),
        subgroups={
            name: cells.get(name, views.CellView(absent="not measured"))
            for name in case.extra_columns
        },
        strategy=head.strategy,
        status=state.name,
        note="" if place.rank else _note(head, state, case, cells.get(case.score_name)),
        num_rounds=head.num_rounds,
        num_rounds_done=head.num_rounds_done,
        num_sites=last.num_sites if last else 0,
        num_sites_ok=last.num_sites_ok if last else 0,
        epsilon=last.epsilon if last else None,
        curve=[(item.round, item.score) for item in recorded],
        created_date=head.started_at,
        updated_date=state.updated_at,
    )


def _rule(case: UseCase) -> ScoreRule:
    return ScoreRule(case.score_name, case.score_direction)


def _note(head: Any, state: State, case: UseCase, score: views.CellView | None) -> str:
    """Say why a run has no place."""
    if state.name not in RANKED:
        return state.reason or state.name
    if head.score_name != case.score_name:
        return f"scored by {head.score_name}, not by {case.score_name}"
    if head.final_round is None:
        return "no round finished yet" if state.name == "running" else "no round finished"
    return (score.absent if score else None) or "the score is absent"


def run_view(
    run: Run,
    submission: Submission,
    case: UseCase,
    recorded: Sequence[Round],
    metrics: list[views.ComparisonView],
) -> views.RunView:
    """Return one run with its metrics and round summaries."""
    state = state_of(run)
    return views.RunView(
        id=run.id,
        key=run.key,
        usecase_slug=case.slug,
        usecase_title=case.title,
        score_formula_display=run.score_name,
        score_direction=case.score_direction,
        team_name=submission.team,
        model=submission.model,
        params=submission.params,
        num_parameters=submission.num_parameters,
        claimed_score=submission.claimed,
        baseline_score=run.baseline_score,
        final_score=run.final_score,
        final_round=run.final_round,
        improvement=_rule(case).improvement(run.baseline_score, run.final_score),
        strategy=run.strategy,
        runtime=run.runtime,
        seed=run.seed,
        config=run.config,
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
    first = ("round", "phase", "status", "reason", "score", "validation_score", "train_loss")
    fields = (*first, "seconds", "bytes_up", "bytes_down", "num_sites", "num_sites_ok", "epsilon")
    return {name: getattr(item, name) for name in fields} | {"recorded_date": item.recorded_at}
