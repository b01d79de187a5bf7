"""The use case as a run knows it: its score, and what the leaderboard shows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fl_common.errors import ConfigError
from fl_common.words import nearest
from tasks.scores import BLOCKS, DIRECTIONS, OVERALL, SUBGROUPS, MetricPath, TaskMetrics


@dataclass(frozen=True)
class ScoreRule:
    """The use case's one number and which way is better; the only place that compares scores.

    Parameters
    ----------
    name : str
        A metric key such as ``f1_macro``, or ``scope/metric`` for a subgroup or block
        (``subgroups/SMA/recall_macro``).
    direction : {"max", "min", "zero"}
        ``zero``: closest to zero wins, so a mean bias of 0.1 beats -9.

    Raises
    ------
    ConfigError
        If the direction does not exist.
    """

    name: str
    direction: str = "max"

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ConfigError(
                f"score direction {self.direction!r} does not exist: choose {', '.join(DIRECTIONS)}"
            )

    @property
    def path(self) -> MetricPath:
        """Where the score is in a score card."""
        return MetricPath.parse(self.name)

    def sort_key(self, score: float | None) -> float:
        """Return a number that is smaller for a better score; infinity where it is absent."""
        if score is None or not math.isfinite(score):
            return math.inf
        if self.direction == "zero":
            return abs(score)
        return -score if self.direction == "max" else score

    def is_better(self, new: float | None, old: float | None, margin: float = 0.0) -> bool:
        """Say whether ``new`` beats ``old`` by more than ``margin``; an absent score never does."""
        return self.sort_key(new) < self.sort_key(old) - margin

    def improvement(self, baseline: float | None, final: float | None) -> float | None:
        """Return by how much ``final`` is better than ``baseline``; negative where it is worse.

        ``None`` if either is absent.
        """
        gain = self.sort_key(baseline) - self.sort_key(final)
        return gain if math.isfinite(gain) else None


@dataclass(frozen=True)
class UseCaseInfo:
    """A competition as the leaderboard shows it."""

    slug: str
    title: str
    description: str
    task: str
    score: ScoreRule
    extra_columns: tuple[str, ...] = ()
    """``scope/metric`` names that the ranking shows as extra columns."""


def score_rule(given: Any, metrics: TaskMetrics) -> ScoreRule:
    """Return the score of ``usecase.score``: a metric, or ``{name: METRIC, direction: max}``.

    Parameters
    ----------
    given : str or mapping
    metrics : TaskMetrics
        Knows which way each of the task's metrics is better.

    Raises
    ------
    ConfigError
        If the metric does not exist, the direction contradicts it, or only the user can know it.
    """
    raw = {"name": given} if isinstance(given, str) else given
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise ConfigError(f"usecase.score must be {{name: METRIC, direction: max}}, got {given!r}")
    name, direction = raw["name"], raw.get("direction")
    if direction is not None and str(direction) not in DIRECTIONS:
        raise ConfigError(f"usecase.score.direction must be max, min or zero, got {direction}")
    own = _info(MetricPath.parse(name), metrics).direction
    if own is None and direction is None:
        raise ConfigError(
            f"usecase.score: which way '{name}' is better is not known; "
            f"give 'usecase.score={{name: {name}, direction: max}}' (or min, or zero)"
        )
    if own is not None and direction not in (None, own):
        raise ConfigError(
            f"usecase.score: direction {direction} contradicts '{name}', of which "
            f"{DIRECTIONS[own]}; write usecase.score={name}"
        )
    return ScoreRule(name, own or str(direction))


def check_metric(key: str, metrics: TaskMetrics, schema: Mapping[str, Any]) -> None:
    """Require that a metric, in a scope such as ``subgroups/women``, will be computed.

    Raises
    ------
    ConfigError
        Naming the metric or the scope, with the near match.
    """
    path = MetricPath.parse(key)
    known = [OVERALL]
    for kind, declared in ((SUBGROUPS, "subgroups"), (BLOCKS, "feature_blocks")):
        known += [f"{kind}/{name}" for name in schema.get(declared) or {}]
    if path.scope not in known:
        near = nearest(path.scope, known)
        hint = f"did you mean '{near[0]}/{path.name}'?" if near else f"known: {sorted(known)}"
        raise ConfigError(f"usecase.score: '{key}': scope '{path.scope}' does not exist; {hint}")
    _info(path, metrics)


def _info(path: MetricPath, metrics: TaskMetrics) -> Any:
    try:
        return metrics.info(path.name)
    except ConfigError as error:
        raise ConfigError(f"usecase.score or extra_columns: {error}") from None
