"""Installed packages with entry points: found, loaded when asked for, refused where they clash."""

import sys

import pytest

from fl_common.errors import ConfigError, PolicyError
from fl_common.plugins import (
    find_plugin,
    plugin_modules,
    plugin_names,
    plugin_packages,
    same_package,
)
from fl_server.config.compatibility import check_run
from fl_server.runtimes.launch import launch
from strategies.registry import client_update
from strategies.wire.job import Job
from tasks.contract import ModelSpec, TrainConfig
from tasks.registry import load_task, task_names
from tasks.tabular.datasets import dataset_names, load_dataset

CODE = """
import pandas as pd

from strategies.fedavg import FedAvg
from tasks.tabular.adapter import TabularClassification


class MyRule(FedAvg):
    client_update = "my_rule"


def local_update(local):
    from strategies.fedavg import local_update
    return local_update(local)


class Yes(TabularClassification):
    pass


def table():
    return pd.DataFrame({"x": [float(i % 7) for i in range(60)],
                         "y": ["n" if i % 7 < 3 else "p" for i in range(60)]})
"""
ENTRIES = {
    "strategies": {"my_rule": "my_code:MyRule"},
    "tasks": {"yes": "my_code:Yes"},
    "datasets": {"sevens": "my_code:table"},
}


@pytest.fixture
def plugin(install_plugin):
    return install_plugin("my-package", ENTRIES, my_code=CODE)


def test_names_and_packages_are_read_without_importing_anything(plugin):
    assert plugin_names("tasks") == ("yes",)
    assert "my-package" in plugin_packages()
    assert "my_code" in plugin_modules("tasks")
    assert find_plugin("tasks", "yes").package == "my-package"
    assert find_plugin("tasks", "no") is None
    assert "my_code" not in sys.modules


def test_what_a_package_adds_is_there_by_name(plugin):
    assert "yes" in task_names()
    assert type(load_task("yes", {"target": "y", "classes": ["n", "p"]})).__name__ == "Yes"
    assert "sevens" in dataset_names()
    assert len(load_dataset("sevens")) == 60
    assert client_update("my_rule").__module__ == "my_code"


def test_the_simulation_runs_all_of_it(plugin, compose):
    config = compose(
        "usecase.task=yes",
        "usecase.categorical=[]",
        "data.sites=[]",
        "data.dataset=sevens",
        "data.num_sites=2",
        "strategy._target_=my_code.MyRule",
        "rounds=1",
    )
    assert [record.status for record in launch(config).rounds] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["usecase.task=yes"], "tasks 'yes'"),
        (["data.sites=[]", "data.dataset=sevens", "data.num_sites=1"], "datasets 'sevens'"),
    ],
)
def test_a_site_runs_none_that_its_own_file_does_not_name(
    plugin, compose, monkeypatch, options, says
):
    monkeypatch.setattr("fl_server.runtimes.simulated_sites.plugin_packages", lambda: ())
    config = compose("usecase.categorical=[]", *options, "rounds=1")
    with pytest.raises(Exception, match=rf"{says} comes from the plugin 'my-package'.*policy.plug"):
        launch(config)


def test_a_site_names_the_package_as_pip_does(plugin):
    from fl_client.policy.policy import Policy

    with pytest.raises(PolicyError, match=r"set policy.plugins: \[other, my-package\]"):
        Policy(plugins=("other",)).check_plugin("tasks", "yes")
    Policy(plugins=("My_Package",)).check_plugin("tasks", "yes")
    Policy().check_plugin("tasks", "tabular_classification")
    job = Job("tabular_regression", {}, ModelSpec("mlp"), TrainConfig(), strategy="my_rule")
    with pytest.raises(PolicyError, match="strategies 'my_rule' comes from the plugin 'my-pack"):
        Policy().check(job)
    Policy(plugins=("my-package",)).check(job)
    assert same_package("a.b-c", "A_B_c")
    assert not same_package("ab", "a-b")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("no_such_module:Task", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("my_broken:Task", "AttributeError"),
        ("my_broken2:Task", "ZeroDivisionError"),
    ],
)
def test_a_broken_entry_point_is_told_with_its_package(install_plugin, value, says):
    install_plugin("my-broken", {"tasks": {"bad": value}}, my_broken="", my_broken2="1 / 0")
    with pytest.raises(ConfigError, match=rf"plugin 'my-broken': tasks 'bad' = '{value}' .*{says}"):
        load_task("bad", {})


def test_names_that_clash_are_refused(install_plugin):
    install_plugin("one", {"tasks": {"tabular_regression": "a:B", "same": "a:B"}})
    install_plugin("two", {"tasks": {"same": "a:C"}, "strategies": {"ditto": "a:D"}})
    with pytest.raises(ConfigError, match="'one' adds tasks 'tabular_regression', a name that"):
        load_task("tabular_regression", {"target": "y"})
    with pytest.raises(ConfigError, match="plugins 'one' and 'two' both add tasks 'same'"):
        load_task("same", {})
    with pytest.raises(ConfigError, match="'two' adds strategies 'ditto'"):
        client_update("ditto")


def test_a_misspelt_name_of_a_plugin_is_suggested(plugin, compose):
    with pytest.raises(ConfigError, match="did you mean 'yes'"):
        check_run(compose("usecase.task=yess"))
