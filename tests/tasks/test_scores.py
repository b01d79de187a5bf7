"""Paths of scores, the scopes of a score card, and what a task declares of its metrics."""

import math

import pytest

from fl_common.errors import ConfigError
from tasks.scores import DIRECTIONS, MetricInfo, MetricPath, ScoreCard, Scores, TaskMetrics


@pytest.mark.parametrize(
    ("text", "scope", "name", "kind", "group", "short"),
    [
        ("f1_macro", "overall", "f1_macro", "overall", "", "f1_macro"),
        ("overall/f1_macro", "overall", "f1_macro", "overall", "", "f1_macro"),
        ("blocks/mean/f1", "blocks/mean", "f1", "blocks", "mean", "blocks/mean/f1"),
        # a subgroup's name may hold slashes and spaces, a metric's no slash
        ("subgroups/a b/c/f1", "subgroups/a b/c", "f1", "subgroups", "a b/c", "subgroups/a b/c/f1"),
        ("subgroups/x/", "subgroups/x", "", "subgroups", "x", "subgroups/x/"),
    ],
)
def test_path_tells_its_parts_and_is_written_as_it_was_read(text, scope, name, kind, group, short):
    path = MetricPath.parse(text)
    assert (path.scope, path.name, path.kind, path.group) == (scope, name, kind, group)
    assert str(path) == short
    assert MetricPath.parse(str(path)) == path


CARD = ScoreCard(
    overall=Scores(values={"f1": 0.5, "zero": 0.0}, absent={"auc": "one class only"}),
    subgroups={"women": Scores(values={"f1": 0.25}), "men": Scores(absent={"f1": "no rows"})},
    blocks={"women": Scores(values={"f1": 0.75})},
)


def test_scopes_are_named_as_paths_name_them_and_stand_in_order():
    scopes = CARD.scopes()
    assert list(scopes) == ["overall", "subgroups/women", "subgroups/men", "blocks/women"]
    assert scopes["overall"] is CARD.overall
    assert scopes["subgroups/women"] is CARD.subgroups["women"]
    assert scopes["blocks/women"] is CARD.blocks["women"]


def test_empty_card_has_the_scope_of_all_rows_alone():
    assert ScoreCard().scopes() == {"overall": Scores()}


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("f1", 0.5, ""),
        ("zero", 0.0, ""),  # a score of 0 is a score
        ("subgroups/women/f1", 0.25, ""),
        ("blocks/women/f1", 0.75, ""),
        ("auc", None, "one class only"),
        ("subgroups/men/f1", None, "no rows"),
        ("f2", None, "the task has no metric 'f2'"),
        ("subgroups/children/f1", None, "no scope 'subgroups/children' was evaluated"),
        ("women/f1", None, "no scope 'women' was evaluated"),
    ],
)
def test_look_up_gives_the_value_or_the_reason(path, value, why):
    assert CARD.look_up(MetricPath.parse(path)) == (value, why)


METRICS = TaskMetrics(
    infos=(
        MetricInfo("f1_macro", "max", 0.0, 1.0, "mean F1"),
        MetricInfo("f1_micro", "max", 0.0, 1.0),
        MetricInfo("bias", "zero"),
    )
)


def test_info_is_the_declared_one():
    info = METRICS.info("f1_macro")
    assert info is METRICS.infos[0]
    assert (info.direction, info.lower, info.upper, info.summary) == ("max", 0.0, 1.0, "mean F1")
    assert (METRICS.info("bias").lower, METRICS.info("bias").upper) == (-math.inf, math.inf)


def test_info_of_an_unknown_metric_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        METRICS.info("f1_macr")
    assert str(caught.value).startswith("unknown metric 'f1_macr'; did you mean 'f1_macro'")
    assert "bias" not in str(caught.value)


def test_info_of_an_unknown_metric_with_none_near_names_none():
    with pytest.raises(ConfigError, match=r"^unknown metric 'qqqqqqqq'$"):
        METRICS.info("qqqqqqqq")


def test_task_that_declares_nothing_takes_any_name_without_a_direction():
    info = TaskMetrics().info("my_score")
    assert info == MetricInfo("my_score", None, -math.inf, math.inf, "")


def test_directions_of_declared_metrics_are_explained():
    assert {info.direction for info in METRICS.infos} <= DIRECTIONS.keys()
    assert DIRECTIONS["min"] == "lower is better"
