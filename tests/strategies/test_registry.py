import sys
import types

import pytest
from flwr.serverapp import strategy as flower

from fl_common.errors import ConfigError, PolicyError
from strategies import ditto, fedavg, scaffold
from strategies.registry import CLIENT_UPDATES, client_update, client_update_name, personaliser
from strategies.requirements import check_training, needs_single_updates
from strategies.sampling import Uniform
from tasks.contract import TrainConfig


@pytest.fixture
def custom(monkeypatch):
    module = types.ModuleType("my_strategy")
    module.update = lambda local: None
    module.personalise = lambda arrays, state: arrays
    monkeypatch.setitem(sys.modules, "my_strategy", module)
    client_update.cache_clear()
    personaliser.cache_clear()
    yield module
    client_update.cache_clear()
    personaliser.cache_clear()


@pytest.mark.parametrize("name", CLIENT_UPDATES)
def test_every_registered_half_exists(name):
    assert callable(client_update(name))


def test_strategies_name_their_halves():
    assert client_update_name(scaffold.Scaffold()) == "scaffold"
    assert client_update_name(flower.FedAvg()) == "fedavg"  # plain local training


def test_unknown_half_lists_what_there_is():
    with pytest.raises(PolicyError, match=r"'fedfoo'.*scaffold"):
        client_update("fedfoo")


def test_custom_code_runs_only_where_the_site_allows_it(custom):
    with pytest.raises(PolicyError, match=r"policy\.custom_code: true"):
        client_update("my_strategy:update")
    assert client_update("my_strategy:update", custom_code=True) is custom.update
    assert personaliser("my_strategy:update") is None
    assert personaliser("my_strategy:update", custom_code=True) is custom.personalise


@pytest.mark.parametrize("name", ["no_such_module:f", "strategies.fedavg:no_such_function"])
def test_code_that_is_not_installed_is_a_policy_error(name):
    with pytest.raises(PolicyError, match="not installed at this site"):
        client_update(name, custom_code=True)


def test_only_personal_strategies_personalise():
    assert personaliser("ditto") is ditto.personalise
    assert personaliser("fedper") is not None
    assert personaliser("fedbn") is not None
    assert personaliser("fedavg") is None
    assert personaliser("fedfoo") is None
    assert fedavg.FedAvg.client_update == "fedavg"


def test_rules_that_see_single_updates_say_so():
    single = {flower.FedMedian, flower.FedTrimmedAvg, flower.Krum, flower.MultiKrum, flower.Bulyan}
    for rule in single:
        assert needs_single_updates(rule())
    assert not needs_single_updates(flower.FedAvg())
    assert not needs_single_updates(scaffold.Scaffold())


def test_calibration_needs_a_classification_task():
    from strategies.fedlc import FedLC
    from tasks.registry import load_task

    train = TrainConfig()
    schema = {"target": "y", "classes": ["n", "p"]}
    check_training(FedLC(), load_task("tabular_classification", schema), train)
    with pytest.raises(ConfigError, match="does not have"):
        check_training(FedLC(), load_task("tabular_regression", {"target": "y"}), train)


def test_sampler_is_made_from_the_configuration():
    from fl_server.config.instantiation import make_sampler

    assert make_sampler(None) == Uniform()
    target = "strategies.sampling.Uniform"
    assert make_sampler({"_target_": target, "fraction": 0.5}) == Uniform(0.5)
    for bad in ({"_target_": target, "fraction": 2}, {"_target_": "no.such"}, {"_target_": "int"}):
        with pytest.raises(ConfigError, match="sampling"):
            make_sampler(bad)
