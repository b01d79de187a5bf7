"""The score: which way is better, how two compare, and what a configuration may say of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.config.usecase import ScoreRule, check_metric, score_rule
from tasks.scores import DIRECTIONS, MetricInfo, MetricPath, TaskMetrics

scores = st.none() | st.floats() | st.sampled_from([0.0, -0.0, 0.5, -0.5])
METRICS = TaskMetrics(
    (
        MetricInfo("r2", "max"),
        MetricInfo("mse", "min"),
        MetricInfo("mbe", "zero"),
        MetricInfo("own", None),
    )
)


def test_each_direction_compares_its_own_way():
    assert ScoreRule("s", "max").is_better(2.0, 1.0)
    assert ScoreRule("s", "min").is_better(1.0, 2.0)
    assert ScoreRule("s", "zero").is_better(0.1, -9.0)


def test_a_margin_must_be_exceeded_and_an_absent_score_is_never_better():
    rule = ScoreRule("s", "max")
    assert not rule.is_better(1.5, 1.0, margin=0.5)
    assert rule.is_better(1.75, 1.0, margin=0.5)
    assert rule.is_better(0.0, None)
    assert not rule.is_better(None, 0.0)
    assert not rule.is_better(math.nan, 0.0)
    assert not rule.is_better(None, None)


def test_unknown_direction_is_said():
    with pytest.raises(ConfigError, match="choose max, min, zero"):
        ScoreRule("s", "up")


@given(scores, scores, st.sampled_from(list(DIRECTIONS)))
def test_improvement_agrees_with_the_ranking(before, after, direction):
    rule = ScoreRule("s", direction)
    gain = rule.improvement(before, after)
    first, second = rule.sort_key(before), rule.sort_key(after)
    if math.isinf(first) or math.isinf(second):
        assert gain is None
    elif gain is not None:
        assert (gain > 0) == (second < first)
        assert (gain < 0) == (second > first)


@pytest.mark.parametrize(("name", "direction"), [("r2", "max"), ("mse", "min"), ("mbe", "zero")])
def test_a_metric_without_direction_takes_its_own(name, direction):
    assert score_rule(name, METRICS) == ScoreRule(name, direction)
    assert score_rule({"name": name}, METRICS) == ScoreRule(name, direction)
    assert score_rule({"name": name, "direction": direction}, METRICS).direction == direction


def test_a_scoped_metric_takes_its_own_direction():
    assert score_rule("subgroups/old/mse", METRICS) == ScoreRule("subgroups/old/mse", "min")


def test_a_contradicting_direction_is_refused_with_the_cure():
    with pytest.raises(ConfigError, match=r"max contradicts 'mse'.*lower is.*usecase.score=mse"):
        score_rule({"name": "mse", "direction": "max"}, METRICS)


@pytest.mark.parametrize("metrics", [METRICS, TaskMetrics()], ids=["declared", "undeclared"])
def test_a_metric_of_ones_own_needs_a_direction(metrics):
    with pytest.raises(ConfigError, match=r"usecase.score=\{name: own, direction: max\}"):
        score_rule("own", metrics)
    assert score_rule({"name": "own", "direction": "zero"}, metrics) == ScoreRule("own", "zero")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "mse", "direction": "up"}, "must be max, min or zero, got up"),
        ("msee", "did you mean 'mse'"),
        (3, "must be {name: METRIC"),
        ({"direction": "max"}, "must be {name: METRIC"),
    ],
)
def test_bad_scores_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        score_rule(given, METRICS)


def test_a_scope_must_be_declared():
    schema = {"subgroups": {"old": {}}, "feature_blocks": {"blood": {}}}
    check_metric("subgroups/old/mse", METRICS, schema)
    check_metric("blocks/blood/mse", METRICS, schema)
    with pytest.raises(ConfigError, match="did you mean 'subgroups/old/mse'"):
        check_metric("subgroups/odl/mse", METRICS, schema)


@pytest.mark.parametrize(
    ("text", "path", "kind", "group"),
    [
        ("f1", MetricPath("overall", "f1"), "overall", ""),
        ("overall/f1", MetricPath("overall", "f1"), "overall", ""),
        ("subgroups/a b/f1", MetricPath("subgroups/a b", "f1"), "subgroups", "a b"),
        ("blocks/x/f1", MetricPath("blocks/x", "f1"), "blocks", "x"),
    ],
)
def test_metric_paths_are_read_and_written(text, path, kind, group):
    assert MetricPath.parse(text) == path
    assert (path.kind, path.group) == (kind, group)
    assert str(path) == text.removeprefix("overall/")


def test_mse_of_a_use_case_scored_by_r2_is_better_when_lower(tmp_path):
    run = compose_overrides(["usecase=diabetes", "usecase.score=mse"], tmp_path)
    assert run.usecase.score == ScoreRule("mse", "min")
    with pytest.raises(ConfigError, match="contradicts 'mse'"):
        compose_overrides(["usecase=diabetes", "usecase.score.name=mse"], tmp_path)
