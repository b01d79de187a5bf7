"""What a configuration names is made once, and what does not go together stops at launch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fl_common.errors import ConfigError
from fl_server.config.compatibility import check_run, check_strategy
from strategies.fedavg import FedAvg
from strategies.sampling import Stratified
from strategies.scaffold import Scaffold
from tasks.contract import ModelSpec
from tasks.registry import load_task


def test_what_is_named_is_made(compose):
    config = compose()
    parts = check_run(config)
    assert type(parts.task) is type(load_task(config.usecase.task, config.schema))
    assert type(parts.strategy) is FedAvg
    assert parts.sampler.fraction == 1.0
    assert check_run(config).strategy is not parts.strategy


def test_strategy_and_sampler_are_those_that_were_chosen(compose):
    groups = "sampling.groups={north: [a, b], south: [c]}"
    config = compose("strategy=scaffold", "train.optimizer=sgd", "sampling=stratified", groups)
    parts = check_run(config)
    assert (type(parts.strategy), type(parts.sampler)) == (Scaffold, Stratified)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy=scaffold", "train.optimizer=adam"], "sgd"),
        (["privacy=local_dpsgd", "train.grad_clip=1"], r"train\.grad_clip=null"),
        (["privacy=secagg", "compression=int8"], "compression=fp32"),
        (["privacy=secagg", "sites.max_update_norm=1"], r"sites\.max_update_norm"),
        (["privacy=secagg", "privacy.min_sites=4"], "needs 4 sites .*there will be 3"),
        (["privacy=secagg", "privacy.min_sites=3", "sampling.fraction=0.3"], "asks . of 3"),
        (["privacy=secagg", "sampling=power_of_choice"], "exact training losses"),
        (["privacy=secagg", "strategy=fedmedian"], "must see each site's update"),
        (["strategy=xgb_bagging"], "joins trees, and model=mlp has weights"),
        (["strategy=krum", "strategy.num_malicious_nodes=1"], "needs at least 5 replies, got 3"),
    ],
)
def test_what_does_not_go_together_is_refused(compose, overrides, message):
    config = compose(*overrides)
    with pytest.raises(ConfigError, match=message):
        check_run(config)


def test_metric_of_a_column_must_be_one_that_is_measured(compose):
    config = compose()
    check_run(config)
    usecase = replace(config.usecase, extra_columns=("f1_macr",))
    with pytest.raises(ConfigError, match="f1_macr"):
        check_run(replace(config, usecase=usecase))
    usecase = replace(config.usecase, extra_columns=("subgroups/women/f1_macro",))
    with pytest.raises(ConfigError, match="scope 'subgroups/women' does not exist"):
        check_run(replace(config, usecase=usecase))


def test_groups_must_name_the_sites_that_there_are(compose):
    groups = "sampling.groups={north: [a, b], south: [d]}"
    config = compose("sampling=stratified", groups)
    with pytest.raises(ConfigError, match="there is no site 'd'"):
        check_run(config)


def test_expected_sites_count_for_more_than_those_of_the_configuration(compose):
    config = compose("privacy=secagg", "privacy.min_sites=3")
    parts = check_run(config)
    fewer = replace(config, sites=replace(config.sites, expected=2))
    with pytest.raises(ConfigError, match=r"needs 3 sites .*there will be 2"):
        check_strategy(fewer, parts)


def test_number_of_sites_that_nobody_knows_is_not_checked(compose):
    config = compose("privacy=secagg", "privacy.min_sites=4")
    unknown = replace(config, sources=())
    parts = check_run(unknown)
    assert type(parts.strategy) is FedAvg
    with pytest.raises(ConfigError, match="needs 4 sites"):
        check_strategy(config, parts)


def test_trees_need_a_strategy_for_trees(compose):
    pytest.importorskip("xgboost")
    trees = replace(compose(), model=ModelSpec("xgboost", {}))
    with pytest.raises(ConfigError, match="set strategy=xgb_bagging or xgb_cyclic"):
        check_run(trees)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("no_such", {}), "no_such"),
        (ModelSpec("mlp", {"hiden": [8]}), "hiden"),
        (ModelSpec("os:system", {}), "os"),
    ],
)
def test_model_that_does_not_exist_is_refused(compose, spec, message):
    config = replace(compose(), model=spec)
    with pytest.raises(ConfigError, match=message):
        check_run(config)
