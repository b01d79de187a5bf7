"""Views as HTML pages; everything that was recorded is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fl_server.leaderboard import views
from fl_server.results import charts
from fl_server.results.columns import RoundColumns, SiteColumns, columns_of
from tasks.scores import DIRECTIONS, MetricPath

NUM_HIGHLIGHTED = 8
"""Lines with a colour of their own in a chart of all runs."""


def render(template: str, **context: Any) -> str:
    """Render a template."""
    return _environment.get_template(template).render(**context)


def usecase_charts(board: views.LeaderboardView) -> dict[str, Any]:
    """Draw a use case's overlay: the best runs in colour, the others grey behind them."""
    best, others = board.results[:NUM_HIGHLIGHTED], board.results[NUM_HIGHLIGHTED:]
    case = board.usecase
    svg = charts.overlay_svg(
        [_series(entry) for entry in best],
        case.score_formula_display,
        case.score_direction,
        muted=[_series(entry) for entry in others],
    )
    return {"overlay": Markup(svg), "highlighted": best, "num_muted": len(others)}  # noqa: S704


def run_chart(run: views.RunView) -> Markup:
    """Draw one run's score by round."""
    svg = charts.score_curve_svg(run.curve, run.score_formula_display, run.score_direction)
    return Markup(svg)  # noqa: S704


def _series(entry: views.EntryView) -> charts.Series:
    mark = str(entry.rank) if entry.rank else ""
    return charts.Series(f"{entry.team_name} / {entry.model}", entry.curve, mark)


def _spark(entry: views.EntryView) -> Markup:
    svg = charts.sparkline_svg(entry.curve, f"score of {entry.team_name} by round")
    return Markup(svg)  # noqa: S704


def _score(value: float | None) -> str:
    return "–" if value is None else charts.format_score(value).replace("-", "−", 1)


def _signed(value: float | None) -> str:
    if value is None:
        return "–"
    text = charts.format_score(abs(value))
    if value == 0:
        return f"±{text}"
    return f"{'+' if value > 0 else '−'}{text}"


def _count(value: int | None) -> str:
    """Return a number with thin spaces between thousands."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")


def _bytes(value: int) -> str:
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _seconds(value: float) -> str:
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    if value >= 100:
        return f"{value / 60:.1f} min"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def _trend(value: float | None) -> str:
    """Return a class for better, worse or the same."""
    if not value:
        return "same"
    return "better" if value > 0 else "worse"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted name, lists as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            found[f"{prefix}{name}"] = "–" if shown is None else shown
    return found


def _breakable(name: str) -> Markup:
    """Let a long name wrap after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _capfirst(text: str) -> str:
    """Begin a sentence; ``capitalize`` would change the rest of it."""
    return text[:1].upper() + text[1:]


def _column(name: str) -> str:
    """Shorten ``subgroups/SMA/recall_macro`` to ``SMA: recall_macro``."""
    path = MetricPath.parse(name)
    return f"{path.group or path.scope}: {path.name}" if "/" in name else path.name


_environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    score=_score,
    signed=_signed,
    count=_count,
    filesize=_bytes,
    duration=_seconds,
    trend=_trend,
    column=_column,
    flat=_flat,
    breakable=_breakable,
    capfirst=_capfirst,
    spark=_spark,
)
_environment.globals["hints"] = DIRECTIONS
_environment.globals["round_columns"] = columns_of(RoundColumns)
_environment.globals["site_columns"] = columns_of(SiteColumns)
