"""What the leaderboard shows: the same dataclasses are the JSON answers and the pages' data.

Field names follow the competition platform's interface (``task_type``, ``team_name``,
``running_score``, ``created_date``...) where it has the field. Every number is finite or ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fl_server.results.columns import RoundColumns, SiteColumns
from fl_server.results.run_status import RunStatus
from tasks.scores import BLOCKS, OVERALL, SUBGROUPS, MetricPath

Curve = list[tuple[int, float | None]]
"""(round, score) in order; ``None`` where a round has no score."""


@dataclass(frozen=True)
class TopEntryView:
    """One of a use case's best runs."""

    id: int
    team_name: str
    running_score: float | None


@dataclass(frozen=True)
class UseCaseView:
    """A competition in the list of competitions."""

    id: int
    title: str
    slug: str
    description: str
    task_type: str
    score_formula_display: str
    """Name of the score: a metric, or ``scope/metric``."""
    score_direction: str
    """``max``, ``min`` or ``zero`` (closest to zero wins)."""
    extra_columns: list[str]
    progress_status: str
    total_participants: int
    """Number of teams."""
    total_runs: int
    num_running: int
    high_score: float | None
    """Best score of a ranked run in the score's direction; ``None`` before there is one."""
    top_leaderboard_entries: list[TopEntryView]
    created_date: datetime
    updated_date: datetime
    """Moves whenever a run of the use case does."""


@dataclass(frozen=True)
class UseCasePageView:
    """A page of the list of competitions."""

    count: int
    next: str | None
    previous: str | None
    results: list[UseCaseView]


@dataclass(frozen=True)
class CellView:
    """A metric's value, or the reason why there is none."""

    value: float | None = None
    absent: str | None = None


@dataclass(frozen=True)
class EntryView(RoundColumns):
    """One run in the ranking."""

    id: int
    rank: int | None
    """``None``: no comparable score; ``note`` says why."""
    team_name: str
    model: str
    params: dict[str, Any]
    num_parameters: int | None
    claimed_score: float | None
    baseline_score: float | None
    """Out of the box: the score of round 0."""
    final_score: float | None
    """After fine-tuning: the score of the final round (``scoring.final_round``) so far."""
    improvement: float | None
    """Final against baseline, positive where better."""
    subgroups: dict[str, CellView]
    """The columns that the use case declares, by name."""
    strategy: str
    status: RunStatus
    note: str
    num_rounds: int
    """Planned rounds."""
    num_rounds_done: int
    num_sites: int
    num_sites_ok: int
    """Sites of the last round, and how many of them answered in full."""
    curve: Curve
    created_date: datetime
    updated_date: datetime


@dataclass(frozen=True)
class ApartView:
    """Runs that are not ranked with the others, and why; ranked among themselves."""

    reason: str
    """Such as ``not comparable: holdout_fraction differs`` or ``custom evaluation: ...``."""
    results: list[EntryView]


@dataclass(frozen=True)
class LeaderboardView:
    """A use case and its ranking, best first."""

    usecase: UseCaseView
    count: int
    results: list[EntryView]
    apart: list[ApartView] = field(default_factory=list)
    """Runs that were evaluated on something else, by what that is."""


@dataclass(frozen=True)
class MetricView:
    """One metric of one scope in one round."""

    scope: str
    name: str
    value: float | None
    absent: str | None
    """Why there is no value."""
    bound: float | None
    """Largest possible absolute error of a binned metric."""


@dataclass(frozen=True)
class SiteView(SiteColumns):
    """What one site contributed to one exchange."""

    site: str
    phase: str
    status: str
    num_examples: int
    seconds: float
    bytes_up: int
    bytes_down: int
    loss: float | None
    reason: str


@dataclass(frozen=True)
class RoundSummaryView(RoundColumns):
    """One round without its metrics and sites."""

    round: int
    phase: str
    status: str
    reason: str
    score: float | None
    train_loss: float | None
    seconds: float
    bytes_up: int
    bytes_down: int
    num_sites: int
    num_sites_ok: int
    recorded_date: datetime


@dataclass(frozen=True)
class RoundView(RoundSummaryView):
    """One round with everything that was recorded."""

    metrics: list[MetricView] = field(default_factory=list)
    sites: list[SiteView] = field(default_factory=list)
    arrays: dict[str, Any] = field(default_factory=dict)
    """Non-scalar results by scope, such as confusion matrices."""
    attributions: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundPageView:
    """A page of a run's rounds."""

    count: int
    next: str | None
    previous: str | None
    results: list[RoundView]


@dataclass(frozen=True)
class ComparisonView:
    """One metric of one scope, out of the box and after fine-tuning."""

    scope: str
    name: str
    baseline: CellView
    final: CellView
    bound: float | None


@dataclass(frozen=True)
class RunView:
    """One run: what was submitted, how it went, and its metrics."""

    id: int
    key: str
    usecase_slug: str
    usecase_title: str
    score_formula_display: str
    score_direction: str
    team_name: str
    model: str
    params: dict[str, Any]
    num_parameters: int | None
    claimed_score: float | None
    baseline_score: float | None
    final_score: float | None
    final_round: int | None
    """The round that ``final_score`` comes from."""
    improvement: float | None
    strategy: str
    runtime: str
    seed: int
    config: dict[str, Any]
    apart: str
    """Why the run is not ranked with the others; empty where it is."""
    evaluation: dict[str, Any] | None
    """What the scores are measured on; ``None`` for runs from before this was kept."""
    evaluation_fingerprint: str | None
    """Equal for equal evaluations: only runs with the same are ranked together."""
    status: RunStatus
    reason: str
    num_rounds: int
    num_rounds_done: int
    curve: Curve
    metrics: list[ComparisonView]
    rounds: list[RoundSummaryView]
    created_date: datetime
    updated_date: datetime
    finished_date: datetime | None


def compare(
    baseline: Sequence[MetricView] | None, final: Sequence[MetricView] | None
) -> list[ComparisonView]:
    """Put two rounds' metrics side by side, in a stable order: overall, subgroups, blocks.

    ``None``: that round has not been recorded yet.
    """
    before = {(metric.scope, metric.name): metric for metric in baseline or ()}
    after = {(metric.scope, metric.name): metric for metric in final or ()}
    return [
        ComparisonView(
            scope=key[0],
            name=key[1],
            baseline=_cell(before.get(key)),
            final=_cell(after.get(key)),
            bound=(after.get(key) or before[key]).bound,
        )
        for key in sorted(before.keys() | after.keys(), key=_scope_order)
    ]


def json_safe(value: Any) -> Any:
    """Return ``value`` as JSON values that any database keeps and any browser reads.

    Non-finite numbers become the text ``nan``, ``inf`` or ``-inf``; numpy numbers and arrays
    become plain; anything else that JSON lacks becomes text.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item) for item in value]
    if hasattr(value, "tolist"):
        return json_safe(value.tolist())
    return clean_text(str(value))


def clean_text(text: str) -> str:
    """Replace what a database cannot store: the NUL character and lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def finite(value: float | None) -> float | None:
    """Return ``value`` as a float, or ``None`` where it is not a finite number."""
    return float(value) if value is not None and math.isfinite(value) else None


def _cell(metric: MetricView | None) -> CellView:
    if metric is None:
        return CellView(absent="not measured in this round")
    return CellView(metric.value, metric.absent)


def _scope_order(key: tuple[str, str]) -> tuple[int, str, str]:
    kinds, kind = (OVERALL, SUBGROUPS, BLOCKS), MetricPath(*key).kind
    return (kinds.index(kind) if kind in kinds else len(kinds), key[0], key[1])
