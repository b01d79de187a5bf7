from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_server.results.charts import (
    Series,
    format_score,
    overlay_svg,
    score_curve_svg,
    sparkline_svg,
)

SVG = "{http://www.w3.org/2000/svg}"
DIRECTIONS = ["max", "min", "zero"]

points = st.lists(st.tuples(st.integers(0, 2000), st.none() | st.floats()), max_size=30).map(
    lambda curve: sorted(curve, key=lambda point: point[0])
)


def texts(svg):
    return [item.text for item in ET.fromstring(svg).iter(f"{SVG}text")]


def test_curve_marks_the_baseline_and_the_direction():
    svg = score_curve_svg([(0, 0.5), (1, 0.7), (2, 0.8)], "f1_macro", "max")
    assert "baseline" in texts(svg)
    assert "f1_macro (higher is better)" in texts(svg)
    titles = [item.text for item in ET.fromstring(svg).iter(f"{SVG}title")]
    assert titles == ["f1_macro by round", "baseline: 0.5000", "round 1: 0.7000", "round 2: 0.8000"]
    desc = ET.fromstring(svg).find(f"{SVG}desc")
    assert desc is not None
    assert desc.text == "higher is better. 0.5000 at baseline, 0.8000 at 2"


@pytest.mark.parametrize(
    ("direction", "hint"), [("min", "lower is better"), ("zero", "closest to zero is best")]
)
def test_label_follows_the_direction(direction, hint):
    assert f"mae ({hint})" in texts(score_curve_svg([(0, 1.0)], "mae", direction))


def test_better_scores_are_higher_in_the_picture():
    svg = score_curve_svg([(0, 0.1), (1, 0.9)], "auc", "max")
    low, high = (float(item.get("cy", "")) for item in ET.fromstring(svg).iter(f"{SVG}circle"))
    assert high < low


def test_missing_score_interrupts_the_line():
    svg = score_curve_svg([(0, 0.1), (1, 0.2), (2, None), (3, 0.4)], "auc", "max")
    (path,) = ET.fromstring(svg).iter(f"{SVG}path")
    assert re.sub(r"[^ML]", "", path.get("d", "")) == "MLM"


def test_zero_direction_draws_the_zero_line():
    svg = score_curve_svg([(0, 3.0), (1, 2.0)], "bias", "zero")
    assert 'class="chart-zero"' in svg
    assert "0" in texts(svg)


def test_nothing_to_draw_is_said():
    assert "no score yet" in texts(score_curve_svg([], "auc", "max"))
    assert "no score yet" in texts(score_curve_svg([(0, None)], "auc", "max"))


def test_svg_needs_no_style_attribute():
    svg = overlay_svg([Series("a", [(0, 1.0)], "1")], "auc", "max", [Series("b", [(0, 2.0)])])
    assert "style=" not in svg


def test_hostile_names_are_escaped():
    name = "</title><script>alert(1)</script>\0\x1b"
    svg = overlay_svg([Series(name, [(0, 1.0)], name)], name, "max")
    assert "<script" not in svg
    ET.fromstring(svg)


def test_marks_do_not_overlap():
    series = [Series(str(i), [(0, 0.5), (1, 0.7)], f"#{i}") for i in range(5)]
    svg = overlay_svg(series, "auc", "max")
    heights = sorted(
        float(item.get("y", ""))
        for item in ET.fromstring(svg).iter(f"{SVG}text")
        if (item.text or "").startswith("#")
    )
    assert all(b - a >= 11 for a, b in pairwise(heights))


@settings(max_examples=60)
@given(points, st.text(max_size=20), st.sampled_from(DIRECTIONS))
def test_any_points_give_a_well_formed_picture(curve, label, direction):
    for svg in (score_curve_svg(curve, label, direction), sparkline_svg(curve, label)):
        root = ET.fromstring(svg)
        assert not re.search(r"\b(nan|inf)\b", ET.tostring(root, "unicode").split("<desc>")[0])
        for item in root.iter(f"{SVG}circle"):
            assert 0 <= float(item.get("cx", "")) <= 640
            assert 0 <= float(item.get("cy", "")) <= 260


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0000"), (0.91234, "0.9123"), (-12.3456, "-12.35"), (1234.5, "1234"), (3e-7, "3e-07")],
)
def test_scores_are_short(value, text):
    assert format_score(value) == text
