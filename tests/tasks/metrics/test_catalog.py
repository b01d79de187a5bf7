"""The catalogue names every metric once and helps with misspellings."""

from pathlib import Path

import numpy as np
import pytest

from fl_common.errors import ConfigError
from tasks.metrics import (
    classification_stats,
    finalise_classification,
    finalise_regression,
    metric_info,
    metric_names,
    regression_stats,
)


@pytest.mark.parametrize("classes", [["no", "yes"], ["a", "b", "c", "d", "e", "f"]])
def test_catalogue_covers_every_produced_classification_metric(classes):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(len(classes)), 50)
    truth = rng.integers(0, len(classes), 50)
    result = finalise_classification(classification_stats(truth, scores), classes)
    assert result.values.keys() | result.absent.keys() == set(
        metric_names("classification", classes)
    )
    for name, value in result.values.items():
        info = metric_info(name, classes)
        assert info.name == name
        assert info.lower <= value <= info.upper
        assert info.direction in {"max", "min"}
        assert info.summary


def test_catalogue_covers_every_produced_regression_metric():
    result = finalise_regression(regression_stats([1.0, 2.0], [1.5, 2.0], scale=1.0), scale=1.0)
    assert result.values.keys() == set(metric_names("regression"))
    for name, value in result.values.items():
        assert metric_info(name).lower <= value <= metric_info(name).upper


@pytest.mark.parametrize(
    ("name", "direction"),
    [("mbe", "zero"), ("rmse", "min"), ("r2", "max"), ("log_loss", "min"), ("qwk", "max")],
)
def test_direction(name, direction):
    assert metric_info(name).direction == direction


def test_unknown_metric_names_the_nearest():
    with pytest.raises(ConfigError, match="f1_macro"):
        metric_info("f1_marco")
    with pytest.raises(ConfigError, match="need the use case's classes"):
        metric_info("recall_yes")
    with pytest.raises(ConfigError, match="recall_yes"):
        metric_info("recall_yse", ["no", "yes"])


def test_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="ranking"):
        metric_names("ranking")


@pytest.mark.parametrize("classes", [["macro", "x"], ["x", "x"]])
def test_ambiguous_class_names_are_refused(classes):
    with pytest.raises(ConfigError, match="ambiguous"):
        metric_names("classification", classes)


def test_every_metric_is_documented():
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")
    names = metric_names("classification", ["<class>"]) + metric_names("regression")
    assert [name for name in names if f"`{name}`" not in text] == []
