"""Line charts as SVG text; pure, without a drawing library.

Colours are presentation attributes, so that a saved file stands alone, and classes, so that a
page's style sheet may override them (no ``style`` attribute: the page's content policy has none).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from tasks.scores import DIRECTIONS

Point = tuple[int, float | None]

COLOURS = ("#2563eb", "#c2410c", "#15803d", "#a21caf", "#b45309", "#0e7490", "#be123c", "#4d7c0f")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
"""Lines differ in dash as well as in colour."""


@dataclass(frozen=True)
class Series:
    """One line of a chart; ``mark`` is written at its end."""

    name: str
    points: Sequence[Point]
    mark: str = ""


def score_curve_svg(points: Sequence[Point], label: str, direction: str) -> str:
    """Draw one run's score by round.

    Parameters
    ----------
    points : sequence of (round, score)
        A score that is ``None`` or not finite interrupts the line.
    label : str
        The score's name.
    direction : {"max", "min", "zero"}
        Said beside the label; ``zero`` also draws the zero line.

    Returns
    -------
    str
        A complete SVG document element.
    """
    return overlay_svg([Series("", points)], label, direction)


def overlay_svg(
    series: Sequence[Series], label: str, direction: str, muted: Sequence[Series] = ()
) -> str:
    """Draw several runs' scores by round, ``muted`` ones thin and grey behind the others."""
    every = [_finite(item.points) for item in (*muted, *series)]
    frame = _Frame.around([point for points in every for point in points], direction)
    hint = DIRECTIONS.get(direction, direction)
    parts = [*_axes(frame, f"{label} ({hint})", direction)]
    parts += [_line(frame, item, "muted", "#9ca3af", "") for item in muted]
    for index, item in enumerate(series):
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        parts.append(_line(frame, item, f"s{index % len(COLOURS)}", colour, dash))
    parts += _marks(frame, series)
    if not any(every):
        parts.append(_text(frame.middle, 120, "no score yet", "middle", "chart-note"))
    title = f"{label} by round"
    return _document(frame.width, frame.height, title, _story(series, hint), parts)


def sparkline_svg(points: Sequence[Point], label: str) -> str:
    """Draw a curve small enough for a table cell."""
    width, height, pad = 120, 32, 4
    shown = _finite(points)
    low, high = _extent([value for _, value in shown])
    last = max((x for x, _ in shown), default=0)
    frame = _Frame(width, height, pad, pad, pad, pad, max(last, 1), low, high)
    line = _line(frame, Series("", points), "s0", COLOURS[0], "", hover=False)
    return _document(width, height, label, _story([Series("", points)], ""), [line], "spark")


@dataclass(frozen=True)
class _Frame:
    """Where rounds and scores lie in the picture."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    last: int
    low: float
    high: float

    @classmethod
    def around(cls, points: Sequence[tuple[int, float]], direction: str) -> _Frame:
        values = [value for _, value in points] + ([0.0] if direction == "zero" else [])
        low, high = _extent(values)
        last = max((x for x, _ in points), default=1)
        return cls(640, 260, 64, 28, 34, 40, max(last, 1), low, high)

    @property
    def middle(self) -> float:
        return (self.left + self.width - self.right) / 2

    @property
    def floor(self) -> int:
        return self.height - self.bottom

    def x(self, position: float) -> float:
        span = self.width - self.left - self.right
        return round(self.left + span * position / self.last, 2)

    def y(self, value: float) -> float:
        # Halved first: the difference of two huge scores must not overflow.
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        # Kept within: a score near the largest float is beyond the range that fits one.
        return round(self.floor - (self.floor - self.top) * min(max(share, 0.0), 1.0), 2)


def _finite(points: Iterable[Point]) -> list[tuple[int, float]]:
    return [(x, y) for x, y in points if y is not None and math.isfinite(y)]


def _extent(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds ``values`` with some air, never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    air = 0.05 * (high / 2 - low / 2) * 2 or abs(high) * 0.1 or 0.5
    limit = 1.7e308
    low, high = max(low - air, -limit), min(high + air, limit)
    if high / 2 - low / 2 < 1e-300:
        low, high = low - 0.5, high + 0.5
    return low, high


def _ticks(low: float, high: float, count: int = 5) -> list[tuple[float, str]]:
    """Return round numbers (1, 2 or 5 times a power of ten) in the range, and their labels."""
    rough = (high / 2 - low / 2) * 2 / count
    edges = [(value, f"{value:.4g}") for value in (low, high)]
    if not math.isfinite(rough) or rough < max(abs(low), abs(high)) * 1e-12:
        return edges
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * m for m in (1, 2, 5) if power * m >= rough), power * 10)
    first, last = math.ceil(low / step), math.floor(high / step)
    decimals = max(0, -math.floor(math.log10(step)))
    form = f".{decimals}f" if decimals <= 6 and max(abs(low), abs(high)) < 1e6 else ".4g"
    return [(step * index, f"{step * index:{form}}") for index in range(first, last + 1)] or edges


def _axes(frame: _Frame, label: str, direction: str) -> Iterable[str]:
    yield f'<rect class="chart-back" width="{frame.width}" height="{frame.height}" fill="#fff"/>'
    yield _text(frame.left - 52, 18, label, "start", "chart-label")
    right = frame.width - frame.right
    for value, text in _ticks(frame.low, frame.high):
        y = frame.y(value)
        yield _rule("chart-grid", "#e5e7eb", frame.left, y, right, y)
        yield _text(frame.left - 8, y + 4, text, "end", "chart-tick")
    if direction == "zero":
        y = frame.y(0.0)
        yield _rule("chart-zero", "#6b7280", frame.left, y, right, y)
    x = frame.x(0)
    yield _rule("chart-baseline", "#6b7280", x, frame.top, x, frame.floor, "3 3")
    yield _text(x, frame.floor + 16, "baseline", "middle", "chart-tick")
    step = max(1, math.ceil(frame.last / 8))
    for position in range(step, frame.last + 1, step):
        yield _text(frame.x(position), frame.floor + 16, str(position), "middle", "chart-tick")
    yield _text(frame.middle + frame.left / 2, frame.height - 6, "round", "middle", "chart-tick")


def _line(
    frame: _Frame, series: Series, css: str, colour: str, dash: str, hover: bool = True
) -> str:
    """Draw one line, cut where a score is missing, with a dot and a hover text per round."""
    path, connected = [], False
    for x, y in series.points:
        if y is None or not math.isfinite(y):
            connected = False
            continue
        path.append(f"{'L' if connected else 'M'}{frame.x(x)} {frame.y(y)}")
        connected = True
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    width = 1 if css == "muted" else 2
    steps = " ".join(path)
    body = [f'<path d="{steps}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>']
    shown = _finite(series.points)
    dots = shown if hover and css != "muted" else shown[-1:]
    for x, y in dots:
        radius = 3 if (x, y) == shown[-1] or len(shown) < 40 else 1.5
        name = f"{series.name}, " if series.name else ""
        where = "baseline" if x == 0 else f"round {x}"
        body.append(
            f'<circle cx="{frame.x(x)}" cy="{frame.y(y)}" r="{radius}" fill="{colour}">'
            f"<title>{_safe(name + where)}: {format_score(y)}</title></circle>"
        )
    return f'<g class="line {css}">{"".join(body)}</g>'


def _marks(frame: _Frame, series: Sequence[Series]) -> list[str]:
    """Write each line's mark at its end, moved apart where two would overlap."""
    ends = [(_finite(item.points)[-1], item.mark) for item in series if _finite(item.points)]
    placed = sorted((frame.y(y), frame.x(x), mark) for (x, y), mark in ends if mark)
    marks, lowest = [], -math.inf
    for y, x, mark in placed:
        lowest = max(y + 4, lowest + 11)
        marks.append(_text(x + 7, lowest, mark, "start", "chart-mark"))
    return marks


def _story(series: Sequence[Series], hint: str) -> str:
    """Say in words what the lines show, for those who cannot see them."""
    told = []
    for item in series[:20]:
        shown = _finite(item.points)
        if shown:
            (first, start), (last, end) = shown[0], shown[-1]
            begin = "baseline" if first == 0 else f"round {first}"
            name = f"{item.name}: " if item.name else ""
            told.append(f"{name}{format_score(start)} at {begin}, {format_score(end)} at {last}")
    return ". ".join(part for part in (hint, *told) if part) or "no score yet"


def _document(
    width: int, height: int, title: str, story: str, parts: Iterable[str], css: str = "chart"
) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{css}" role="img"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="system-ui, sans-serif" font-size="12">'
        f"<title>{_safe(title)}</title><desc>{_safe(story)}</desc>{''.join(parts)}</svg>"
    )


def _rule(css: str, colour: str, x1: float, y1: float, x2: float, y2: float, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line class="{css}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"{dashed}/>'
    )


def _text(x: float, y: float, text: str, anchor: str, css: str) -> str:
    return (
        f'<text class="{css}" x="{round(x, 2)}" y="{round(y, 2)}" text-anchor="{anchor}"'
        f' fill="#374151">{_safe(text)}</text>'
    )


def _safe(text: str) -> str:
    """Escape for XML, without the control characters that XML forbids."""
    allowed = "".join(c if c >= " " and c not in "\ufffe\uffff" else " " for c in text)
    return escape(allowed.encode("utf-8", "replace").decode("utf-8"))


def format_score(value: float) -> str:
    """Return a number with four decimals; very small and large ones with four digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 4 if abs(value) < 10 else max(0, 4 - len(str(int(abs(value)))))
        return f"{value:.{digits}f}"
    return f"{value:.4g}"
