"""Networks of a user's own: a plugin's, or module:function, for the shipped tasks."""

import numpy as np
import pytest

from fl_common.errors import ConfigError, PolicyError
from fl_server.config.compatibility import check_run
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.launch import launch
from tasks.contract import DataSource, ModelSpec, Partition
from tasks.registry import load_task
from tasks.testing import TaskContract
from tests.tasks.tabular.test_contract import COMMON, _table

CODE = """
import torch
from torch import nn


def wide(inputs, outputs, hidden=8):
    return nn.Sequential(
        nn.Linear(inputs.shape[0], hidden),
        nn.BatchNorm1d(hidden),
        nn.Dropout(0.1),
        nn.Linear(hidden, outputs.shape[0]),
    )


def plain(inputs, outputs, hidden=8):
    return nn.Sequential(nn.Linear(inputs.shape[0], hidden), nn.Tanh(),
                         nn.Linear(hidden, outputs.shape[0]))


def flat(inputs, outputs, norm=True):
    c, h, w = inputs.shape
    return nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, len(outputs.names)))


def pixels(inputs, outputs):
    return nn.Conv2d(inputs.shape[0], outputs.shape[0], 3, padding=1)


def too_many(inputs, outputs):
    return nn.Linear(inputs.shape[0], outputs.shape[0] + 1)


def no_module(inputs, outputs):
    return None


def doubles(inputs, outputs):
    return nn.Linear(inputs.shape[0], outputs.shape[0]).double()


def frozen(inputs, outputs):
    return nn.Linear(inputs.shape[0], outputs.shape[0]).requires_grad_(False)


def raises(inputs, outputs):
    raise ValueError("no idea")
"""
ENTRIES = {"models": {"wide": "nets:wide", "plain": "nets:plain", "flat": "nets:flat"}}


@pytest.fixture(autouse=True)
def nets(install_plugin):
    return install_plugin("my-nets", ENTRIES, nets=CODE)


@pytest.fixture
def sources(tmp_path):
    path = tmp_path / "table.csv"
    _table().to_csv(path, index=False)
    return [DataSource(f"site{i}", str(path), partition=Partition("iid", 3, i)) for i in range(3)]


class TestTable(TaskContract):
    @pytest.fixture
    def task(self):
        schema = {"target": "ill", "classes": ["no", "yes"], "exclude": ["risk"], **COMMON}
        return load_task("tabular_classification", schema)

    @pytest.fixture(params=["plain", "nets:plain"])
    def spec(self, request):
        return ModelSpec(request.param, {"hidden": 4})


class TestRunningStatistics(TestTable):
    # running statistics, which no objective reaches, move as they like
    test_a_strong_proximal_term_keeps_weights_near_the_anchor = None

    @pytest.fixture
    def spec(self):
        return ModelSpec("wide", {"hidden": 4})

    def test_they_travel_and_one_row_trains(self, task, model, sites):
        assert {"1.running_mean", "1.running_var"} <= model.arrays().keys()
        assert model.layer_kinds()["1.running_mean"] == "norm"
        assert not model.trains_privately
        from tasks.contract import LocalObjective, TrainConfig

        before = model.arrays()["1.running_mean"]
        rest = sites[0].num_train - 1  # the last batch has one row
        after = task.train(model, sites[0], TrainConfig(batch_size=rest), LocalObjective(), 0)
        assert np.abs(after.arrays["1.running_mean"] - before).max() > 0


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("nets:too_many", {}, r"turns 2 inputs of shape \(1,\) into \(2, 3\); the task needs"),
        ("nets:no_module", {}, "is no torch.nn.Module but NoneType"),
        ("nets:doubles", {}, "'weight' is torch.float64; make it float32"),
        ("nets:frozen", {}, "has no weight to train"),
        ("nets:raises", {}, "cannot be made: ValueError: no idea"),
        ("nets:absent", {}, "is not installed here: AttributeError"),
        ("no_such_nets:net", {}, "is not installed here: ModuleNotFoundError"),
        ("nets:flat", {}, "cannot be made"),
        ("wide", {"widht": 3}, "widht"),
        ("wdie", {}, "does not exist; did you mean 'wide'"),
    ],
)
def test_what_cannot_work_stops_at_launch(compose, name, params, says):
    pairs = [f"+model.params.{key}={value}" for key, value in params.items()]
    with pytest.raises(ConfigError, match=says):
        check_run(compose(f"model.name={name}", *pairs))


@pytest.mark.parametrize(
    ("name", "policy", "says"),
    [
        ("nets:plain", {}, "custom code; to allow it set policy.custom_code: true"),
        ("plain", {}, r"models 'plain' comes from the plugin 'my-nets'.*policy.plugins: \[my-nets"),
        ("nets:plain", {"custom_code": True}, None),
        ("plain", {"plugins": ("my-nets",)}, None),
    ],
)
def test_a_site_runs_none_that_its_own_file_does_not_allow(name, policy, says):
    from fl_client.policy.policy import Policy
    from strategies.wire.job import Job
    from tasks.contract import TrainConfig

    job = Job("tabular_regression", {}, ModelSpec(name), TrainConfig())
    if says is None:
        Policy(**policy).check(job)
    else:
        with pytest.raises(PolicyError, match=says):
            Policy(**policy).check(job)


@pytest.mark.parametrize("options", [["model._target_=nets:plain"], ["model.name=plain"]])
def test_a_run_on_tables(compose, options):
    config = compose(*options, "+model.params.hidden=4")
    outcome = launch(config)
    assert [record.status for record in outcome.rounds] == ["ok"] * 4
    assert outcome.rounds[-1].score > outcome.rounds[0].score
    assert outcome.arrays["0.weight"].shape[0] == 4


@pytest.fixture
def compose(csv_sites, tmp_path):
    def make(*overrides):
        base = [
            "usecase=tabular_classification",
            "usecase.target=y",
            "usecase.classes=[n,p]",
            "usecase.categorical=[sex]",
            f"data.sites=[{','.join(map(str, csv_sites))}]",
            "model=custom",
            "rounds=3",
            "board.url=null",
            "train.lr=0.02",
        ]
        return compose_overrides([*base, *overrides], tmp_path / "run")

    return make


@pytest.mark.parametrize("target", ["os:system", "subprocess:Popen", "_io:open", "random:choice"])
def test_a_network_comes_from_a_place_that_may_be_named(compose, target):
    with pytest.raises(ConfigError, match=r"allow_targets=\["):
        check_run(compose(f"model._target_={target}"))


def test_object_detection_says_that_it_takes_none():
    from tasks.object_detection.models import build_model

    for name in ("nets:pixels", "flat"):
        with pytest.raises(ConfigError, match="object detection takes no network of your own"):
            build_model(ModelSpec(name), None, 0)


def test_neither_name_nor_target_is_told(compose):
    with pytest.raises(ConfigError, match=r"model\.name is missing; or give model\._target_"):
        compose()
