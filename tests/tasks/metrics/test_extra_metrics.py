"""`usecase.extra_metrics`: summed over the sites, finalised once, equal to the pooled rows."""

import json

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
import torch
import torchmetrics.classification as tmc
from safetensors.numpy import load_file

from fl_common.errors import ConfigError, PolicyError
from fl_server.config.compatibility import check_run
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.launch import launch
from tasks.contract import DataSource, ModelSpec, metrics_of
from tasks.registry import load_task
from tasks.stats import Stats

HINGE = "hinge:{_target_:torchmetrics.classification.BinaryHingeLoss}"
SCHEMA = {"target": "y", "classes": ["n", "p"], "categorical": ["sex"]}
PLUGIN = """
import torch
from torchmetrics import Metric


class Bias(Metric):
    higher_is_better = None

    def __init__(self, power=1):
        super().__init__()
        self.power = power
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds, target):
        self.total += ((preds - target) ** self.power).sum()
        self.count += len(preds)

    def compute(self):
        return self.total / self.count


def nothing():
    return 3
"""


def pooled_truth(config, outcome):
    """The model of the last round on every site's held-out rows at once."""
    task = load_task("tabular_classification", SCHEMA)
    truth, scores = [], []
    card = json.loads((config.folder / "model.json").read_text())
    model = task.build(ModelSpec(**card["model"]), card["preprocessing"], 0)
    model.load(load_file(config.folder / "model.safetensors"))
    for site in config.site_data:
        source = DataSource(site["name"], site["data"]["train"])
        rows = task.read(source, config.split_seed)
        truth.append(rows.holdout.target)
        raw = torch.from_numpy(model.outputs(rows.tensors(model.encoder, "holdout").inputs))
        scores.append(torch.softmax(raw.double(), dim=1).numpy())
    return np.concatenate(truth), np.concatenate(scores)


def test_a_run_scores_by_one_as_on_the_pooled_rows(compose):
    config = compose(
        f"+usecase.extra_metrics={{{HINGE}}}", "usecase.score=hinge", "data.holdout_fraction=0.2"
    )
    assert config.usecase.score.direction == "min"  # torchmetrics knows
    outcome = launch(config)
    result = json.loads((config.folder / "result.json").read_text())
    truth, scores = pooled_truth(config, outcome)
    metric = tmc.BinaryHingeLoss().set_dtype(torch.float64)
    expected = float(metric(torch.from_numpy(scores[:, 1]), torch.from_numpy(truth)))
    assert result["rounds"][-1]["metrics"]["hinge"] == pytest.approx(expected, abs=1e-12)
    assert result["rounds"][-1]["score"] == outcome.rounds[-1].score
    margins = 2 * scores[:, 1] - 1  # scikit-learn's are not squashed to 0..1
    assert skm.hinge_loss(truth, margins) != expected
    assert result["rounds"][-1]["metrics"]["accuracy"] == pytest.approx(
        skm.accuracy_score(truth, scores.argmax(axis=1))
    )


def test_the_leaderboard_ranks_by_one(compose, tmp_path):
    from fl_server.leaderboard.store import Store

    url = f"sqlite:///{tmp_path / 'board.sqlite'}"
    options = [f"+usecase.extra_metrics={{{HINGE}}}", "usecase.score=hinge", "rounds=1"]
    config = compose(*options, f"board.url={url}")
    outcome = launch(config)
    with Store(url) as store:
        (entry,) = store.leaderboard(config.usecase.slug).results
    assert entry.final_score == outcome.rounds[-1].score


def test_regression_equals_scikit_learn_in_the_targets_units(tmp_path):
    rng = np.random.default_rng(0)
    task = load_task(
        "tabular_regression",
        {
            "target": "y",
            "subgroups": {"high": {"column": "x", "min": 0}},
            "extra_metrics": {
                "d2": {"_target_": "torchmetrics.regression.TweedieDevianceScore", "power": 0},
                "log_cosh": {"_target_": "torchmetrics.regression.LogCoshError"},
            },
        },
    )
    sites = []
    for name, rows in (("a", 40), ("b", 70)):
        x = rng.normal(size=rows)
        y = 100 + 20 * x + rng.normal(size=rows)
        pd.DataFrame({"x": x, "y": y}).to_csv(tmp_path / f"{name}.csv", index=False)
        sites.append(task.read(DataSource(name, str(tmp_path / f"{name}.csv")), 1))
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    model = task.build(ModelSpec("linear"), fitted, 0)
    summed = Stats.total(task.evaluate(model, site) for site in sites)
    assert {n: (a.shape, a.dtype) for n, a in task.empty_stats(model).items()} == {
        n: (a.shape, a.dtype) for n, a in summed.items()
    }
    card = task.finalise(summed, fitted)
    truth = np.concatenate([site.holdout.target for site in sites])
    found = np.concatenate(
        [
            model.encoder.unscale(
                model.outputs(site.tensors(model.encoder, "holdout").inputs)[:, 0]
            )
            for site in sites
        ]
    )
    expected = skm.mean_tweedie_deviance(truth, found, power=0)
    assert card.overall.values["d2"] == pytest.approx(expected, rel=1e-12)
    assert card.overall.values["d2"] == pytest.approx(card.overall.values["mse"], rel=1e-9)
    assert "d2" in card.subgroups["high"].values
    assert task.finalise(Stats(), fitted).overall.absent.keys() >= {"d2", "log_cosh"}


def test_pictures_have_them_too():
    classes = ["a", "b", "c"]
    extra = {
        "hinge": {
            "_target_": "torchmetrics.classification.MulticlassHingeLoss",
            "num_classes": 3,
            "direction": "min",
        }
    }
    schema = {"classes": classes, "image_size": 8, "channels": 1, "extra_metrics": extra}
    task = load_task("image_classification", schema)
    assert metrics_of(task).info("hinge").direction == "min"
    assert metrics_of(task).headline[-1] == "hinge"
    rng = np.random.default_rng(1)
    truth, scores = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    parts = [task._row_stats(truth[s], scores[s]) for s in (slice(0, 20), slice(20, 50))]
    pooled = Stats.total(part.under("overall") for part in parts)
    metric = tmc.MulticlassHingeLoss(3).set_dtype(torch.float64)
    expected = float(metric(torch.from_numpy(scores), torch.from_numpy(truth)))
    found = task.finalise(pooled, {"classes": classes}).overall.values["hinge"]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("3", "extra_metrics is 3; write"),
        ("{mine:3}", "extra_metrics.mine is 3; write"),
        ("{accuracy:{_target_:torchmetrics.classification.BinaryHingeLoss}}", "choose another"),
        ("{h:{_target_:os.system}}", "'os.system' is not in torchmetrics.classification"),
        ("{h:{_target_:biass}}", "did you mean 'bias'"),
        ("{h:{_target_:three}}", "'three' makes no torchmetrics.Metric"),
        ("{h:{_target_:torchmetrics.classification.BinaryAUROC}}", "is not a plain sum"),
        ("{h:{_target_:torchmetrics.classification.BinaryHingeLoss,direction:up}}", "is 'up'"),
        ("{h:{_target_:torchmetrics.classification.BinaryHingeLoss,sqared:1}}", "sqared"),
    ],
)
def test_what_cannot_work_stops_at_launch(compose, install_plugin, extra, says):
    named = {"metrics": {"bias": "my_metrics:Bias", "three": "my_metrics:nothing"}}
    install_plugin("my-metrics", named, my_metrics=PLUGIN)
    with pytest.raises(ConfigError, match=says):
        check_run(compose(f"+usecase.extra_metrics={extra}"))


def test_a_plugins_metric_needs_a_direction_and_the_sites_consent(install_plugin, tmp_path):
    from fl_client.policy.policy import Policy
    from strategies.wire.job import Job
    from tasks.contract import TrainConfig

    install_plugin("my-metrics", {"metrics": {"bias": "my_metrics:Bias"}}, my_metrics=PLUGIN)
    base = ["usecase=diabetes", "rounds=1", "board.url=null"]
    base += ["+usecase.extra_metrics={mine:{_target_:bias,power:1}}"]
    with pytest.raises(ConfigError, match="which way 'mine' is better is not known"):
        compose_overrides([*base, "usecase.score=mine"], tmp_path / "run")
    config = compose_overrides(
        [*base, "usecase.score={name: mine, direction: zero}"], tmp_path / "run"
    )
    outcome = launch(config)
    last = outcome.rounds[-1].card.overall.values
    assert last["mine"] == pytest.approx(last["mbe"], abs=1e-9)
    job = Job(config.usecase.task, config.schema, ModelSpec("linear"), TrainConfig())
    with pytest.raises(PolicyError, match="metrics 'bias' comes from the plugin 'my-metrics'"):
        Policy().check(job)
    Policy(plugins=("my_metrics",)).check(job)
