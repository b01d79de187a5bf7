"""What a site allows, checked against what a server asks."""

import pytest

from fl_client.policy.policy import Policy, used_names
from fl_common.errors import ConfigError, PolicyError
from strategies.wire.job import Job
from tasks.contract import ModelSpec, TrainConfig
from tests.unchecked import unchecked


def job(**changes):
    given = {"task": "tabular_classification", "schema": {}, "model": ModelSpec("mlp")}
    return Job(**{**given, "train": TrainConfig(), **changes})


def test_a_policy_that_says_nothing_allows_what_is_shipped():
    Policy().check(job())


@pytest.mark.parametrize(
    ("policy", "asked", "key"),
    [
        ({"tasks": ("image_classification",)}, {}, "policy.tasks"),
        ({"models": ()}, {}, "policy.models"),
        ({"strategies": ("fedavg",)}, {"strategy": "fedprox"}, "policy.strategies"),
        ({"secure_aggregation": True}, {}, "policy.secure_aggregation"),
        ({"max_local_epochs": 2}, {"train": TrainConfig(local_epochs=3)}, "max_local_epochs"),
        ({"max_local_steps": 2}, {"train": TrainConfig(local_steps=3)}, "max_local_steps"),
        ({}, {"model": ModelSpec("my_models:Net")}, "policy.custom_code"),
    ],
)
def test_more_than_is_allowed_is_refused_by_the_key(policy, asked, key):
    with pytest.raises(PolicyError, match=key):
        Policy(**policy).check(job(**asked))


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        ({"tasks": ("tabular_classification",), "models": ("mlp",)}, {}),
        ({"secure_aggregation": True}, {"secagg": True}),
        ({"max_local_epochs": 3}, {"train": TrainConfig(local_epochs=3)}),
        ({"custom_code": True}, {"model": ModelSpec("my_models:Net")}),
    ],
)
def test_what_is_allowed_passes(policy, asked):
    Policy(**policy).check(job(**asked))


def test_local_work_is_a_number_whatever_the_type_says():
    for odd in (float("nan"), float("inf"), "1", None):
        with pytest.raises(PolicyError, match="max_local_epochs"):
            Policy().check_train(unchecked(TrainConfig(), local_epochs=odd))


def test_too_few_rows_are_refused():
    Policy(min_rows=5).check_rows("holdout split", 5)
    with pytest.raises(PolicyError, match="the holdout split has 4 rows"):
        Policy(min_rows=5).check_rows("holdout split", 4)


@pytest.mark.parametrize(
    "values", [{"min_rows": 0}, {"secagg_min_sites": 2}, {"epsilon_budget": 0}, {"minrows": 5}]
)
def test_a_policy_is_checked_where_it_is_made(values):
    with pytest.raises(ConfigError, match="policy"):
        Policy(**values)


def test_names_that_a_plugin_may_add():
    metrics = {"a": {"_target_": "torchmetrics.X"}, "b": "no mapping"}
    names = used_names(job(schema={"extra_metrics": metrics}))
    assert names == [
        ("tasks", "tabular_classification"),
        ("models", "mlp"),
        ("strategies", "fedavg"),
        ("metrics", "torchmetrics.X"),
    ]
    assert len(used_names(job(schema={"extra_metrics": ["no mapping"]}))) == 3
