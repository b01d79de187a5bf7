"""Scores by scope, the path of one of them, and what a task says of its metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from fl_common.errors import ConfigError
from fl_common.words import nearest


@dataclass(frozen=True)
class Scores:
    """Metrics of one scope, finalised from pooled summands.

    Parameters
    ----------
    values : dict of str to float
        Every metric that is defined on the pooled data.
    absent : dict of str to str
        Every metric that is not, with its reason. A metric is in exactly one of the two.
    bounds : dict of str to float
        Largest possible absolute error of a binned metric, from the pooled bins themselves.
    arrays : dict of str to nested lists
        Non-scalar results (``confusion_matrix``).
    """

    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)


OVERALL, SUBGROUPS, BLOCKS = "overall", "subgroups", "blocks"
"""The kinds of scope: all rows, the rows of one subgroup, only the columns of one block."""


@dataclass(frozen=True)
class MetricPath:
    """Where a metric is: ``f1_macro`` of all rows, or ``subgroups/women/recall``.

    Parameters
    ----------
    scope : str
        ``overall``, ``subgroups/NAME`` or ``blocks/NAME``.
    name : str
        The metric in it.

    Examples
    --------
    >>> MetricPath.parse("blocks/mean/f1_macro")
    MetricPath(scope='blocks/mean', name='f1_macro')
    >>> str(MetricPath.parse("overall/accuracy"))
    'accuracy'
    """

    scope: str
    name: str

    @classmethod
    def parse(cls, text: str) -> MetricPath:
        """Return the path that ``text`` writes; a bare metric is of all rows."""
        scope, _, name = text.rpartition("/")
        return cls(scope or OVERALL, name)

    def __str__(self) -> str:
        return self.name if self.scope == OVERALL else f"{self.scope}/{self.name}"

    @property
    def kind(self) -> str:
        """``overall``, ``subgroups`` or ``blocks``."""
        return self.scope.partition("/")[0]

    @property
    def group(self) -> str:
        """Name of the subgroup or block; empty for all rows."""
        return self.scope.partition("/")[2]


@dataclass(frozen=True)
class ScoreCard:
    """Scores of every scope: all rows, declared subgroups, one feature block at a time."""

    overall: Scores = field(default_factory=Scores)
    subgroups: dict[str, Scores] = field(default_factory=dict)
    blocks: dict[str, Scores] = field(default_factory=dict)
    attributions: dict[str, float] = field(default_factory=dict)

    def scopes(self) -> dict[str, Scores]:
        """Return the scores of every scope, by the scope of their ``MetricPath``."""
        named = {OVERALL: self.overall}
        named |= {f"{SUBGROUPS}/{name}": scores for name, scores in self.subgroups.items()}
        named |= {f"{BLOCKS}/{name}": scores for name, scores in self.blocks.items()}
        return named

    def look_up(self, path: MetricPath) -> tuple[float | None, str]:
        """Return a metric's value, or None with the reason why it is absent."""
        scores = self.scopes().get(path.scope)
        if scores is None:
            return None, f"no scope '{path.scope}' was evaluated"
        if path.name in scores.values:
            return scores.values[path.name], ""
        return None, scores.absent.get(path.name, f"the task has no metric '{path.name}'")


DIRECTIONS = {
    "max": "higher is better",
    "min": "lower is better",
    "zero": "closest to zero is best",
}
"""Which way a metric is better, and what people are told."""


@dataclass(frozen=True)
class MetricInfo:
    """What the leaderboard needs to know about a metric.

    Parameters
    ----------
    name : str
    direction : {"max", "min", "zero"} or None
        ``zero``: closest to zero is best. None: a metric of the user's own, of which only its
        author knows which way is better.
    lower, upper : float
        Range of possible values; may be infinite.
    summary : str
        One line for readers of the leaderboard.
    """

    name: str
    direction: str | None
    lower: float = -math.inf
    upper: float = math.inf
    summary: str = ""


@dataclass(frozen=True)
class TaskMetrics:
    """What a task measures, as tables and checks need it; the declaration of each task.

    Parameters
    ----------
    infos : tuple of MetricInfo
        Every metric of a scope. Empty: the task does not say, any name may be the score and its
        direction must be given.
    headline : tuple of str
        The metrics that a run's table shows beside the score.
    per_class : str
        Shown of each class, as ``recall`` for ``recall_<class>``; empty: none.
    counts : tuple of str
        What the task counts in the pooled holdout, by its name in ``Scores.arrays``.
    """

    infos: tuple[MetricInfo, ...] = ()
    headline: tuple[str, ...] = ()
    per_class: str = ""
    counts: tuple[str, ...] = ()

    def info(self, name: str) -> MetricInfo:
        """Return a metric's direction, range and summary; unknown ones where nothing is declared.

        Raises
        ------
        ConfigError
            If the task has no such metric; the message names the nearest ones.
        """
        known = {info.name: info for info in self.infos}
        if name in known or not known:
            return known.get(name, MetricInfo(name, None))
        near = nearest(name, known, most=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ConfigError(f"unknown metric '{name}'{hint}")
