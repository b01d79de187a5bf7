"""What a score is measured on, and by which words two differ."""

from __future__ import annotations

import pytest

from fl_server.config.compose import compose_overrides, with_shipped
from fl_server.results.evaluation import SITES, agrees, differing, evaluation_of, fingerprint_of
from fl_server.rounds.sites import Site

BASE = ("usecase=breast_cancer",)


@pytest.fixture
def evaluation(tmp_path):
    def evaluation(*overrides: str, base=BASE):
        return evaluation_of(compose_overrides([*base, *overrides], tmp_path))

    return evaluation


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["rounds=9", "train.lr=0.1", "train.local_epochs=1"],
        ["model=linear", "strategy=fedprox"],
        ["submission.team=other", "usecase.title=X"],
        ["data.validation_fraction=0.1", "early_stopping.patience=2"],
    ],
)
def test_how_a_model_is_trained_is_no_part_of_it(evaluation, overrides):
    assert fingerprint_of(evaluation(*overrides)) == fingerprint_of(evaluation())


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.holdout_fraction=0.02", ["holdout_fraction"]),
        ("data.split_seed=3", ["split_seed"]),
        ("data.num_sites=5", ["partition (num_sites)"]),
        ("partition.seed=5", ["partition (seed)"]),
        ("usecase.score=accuracy", ["score (name)"]),
        ("usecase.exclude=[mean_area]", ["schema (exclude)"]),
    ],
)
def test_what_differs_is_named(evaluation, override, named):
    mine = evaluation(override)
    assert differing(mine, evaluation()) == named
    assert fingerprint_of(mine) != fingerprint_of(evaluation())


def test_files_are_compared_by_site(evaluation):
    base = ("usecase=tabular_regression", "usecase.target=y")
    both = evaluation("data.sites=[a.csv,b.csv]", base=base)
    assert both["data"] == {"a": "a.csv", "b": "b.csv"}
    other = evaluation("data.sites=[{name: a, train: a.csv, holdout: h.csv}, b.csv]", base=base)
    assert differing(both, other) == ["holdout"]


def test_other_rows_are_named_where_nothing_else_explains_them(tmp_path):
    config = compose_overrides([*BASE], tmp_path)
    sites = [Site("a", 1, num_train=80, num_holdout=20)]
    mine = evaluation_of(config, sites)
    assert mine[SITES] == {"a": 20}
    fewer = evaluation_of(config, [Site("a", 1, num_train=80, num_holdout=19)])
    assert differing(mine, fewer) == [SITES]
    assert differing(mine, fewer | {"split_seed": 1}) == ["split_seed"]
    assert agrees(mine, evaluation_of(config))
    assert not agrees(mine, evaluation_of(config) | {"split_seed": 1})


def test_a_deployment_does_not_know_its_sites_data(evaluation):
    assert evaluation("runtime=deployment")["data"] == "held by the sites"
    assert differing(evaluation("runtime=deployment"), evaluation())[0] == "data"


def test_a_use_case_as_shipped_is_without_the_overrides(tmp_path):
    def shipped(usecase, *overrides):
        config = compose_overrides([f"usecase={usecase}", *overrides], tmp_path)
        return with_shipped(config, usecase).shipped

    found = shipped("breast_cancer", "usecase.title=X", "data.holdout_fraction=0.1")
    assert found.usecase.title == "Breast cancer diagnosis from cell nuclei"
    assert evaluation_of(found)["holdout_fraction"] == 0.2
    assert shipped("breast_cancer", "usecase.slug=mine") is None
    own = ("usecase.target=y", "data.sites=[a.csv,b.csv]")
    assert shipped("tabular_regression", *own) is None
