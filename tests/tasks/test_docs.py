"""docs/tasks.md: its survival task runs as printed, as a plugin, and is what it says it is."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fl_server.config.compose import compose_overrides
from fl_server.runtimes.launch import launch
from tasks.contract import DataSource, ModelSpec, Partition
from tasks.registry import load_task
from tasks.stats import Stats
from tasks.testing import TaskContract

TEXT = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
COLUMNS = ["age", "nodes", "stage"]
SCHEMA = {"time": "T", "event": "E", "columns": COLUMNS, "time_bins": [1, 2, 3, 5, 8, 13]}


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)[number]


def patients(rows=240, seed=0):
    """Exponential survival with a known effect, censored at random; three regions."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.normal(size=rows) for name in COLUMNS})
    risk = frame["age"] * 0.8 - frame["nodes"] * 0.5
    lived, seen = rng.exponential(4 / np.exp(risk)), rng.exponential(9.0, rows)
    frame["T"], frame["E"] = np.minimum(lived, seen), (lived <= seen).astype(float)
    frame["region"] = rng.choice(["north", "south", "west"], rows)
    return frame


@pytest.fixture(autouse=True)
def plugin(install_plugin):
    made = "from tests.tasks.test_docs import patients"
    return install_plugin(
        "my-survival",
        {
            "tasks": {"survival": "my_survival:Survival"},
            "datasets": {"made_up_patients": "my_patients:patients"},
        },
        my_survival=block("python"),
        my_patients=made,
    )


@pytest.fixture
def sources(tmp_path):
    patients().to_csv(tmp_path / "rows.csv", index=False)
    cut = [Partition("column", 3, i, column="region") for i in range(3)]
    return [DataSource(f"s{i}", str(tmp_path / "rows.csv"), partition=cut[i]) for i in range(3)]


class TestContract(TaskContract):
    @pytest.fixture
    def task(self):
        return load_task("survival", SCHEMA)

    @pytest.fixture
    def spec(self):
        return ModelSpec("cox")


def test_it_is_short():
    assert len(block("python").splitlines()) < 150


def breslow(weights, x, times, events):
    """Negative log partial likelihood of one stratum, and its gradient, row by row."""
    loss, gradient = 0.0, np.zeros(x.shape[1])
    for i in np.flatnonzero(events):
        at_risk = times >= times[i]
        odds = np.exp(x[at_risk] @ weights)
        loss += np.log(odds.sum()) - x[i] @ weights
        gradient += (odds[:, None] * x[at_risk]).sum(axis=0) / odds.sum() - x[i]
    return loss, gradient


def concordance(risks, times, events):
    """Harrell's, pair by pair."""
    right = pairs = 0.0
    for i in np.flatnonzero(events):
        later = times > times[i]
        pairs += later.sum()
        right += (risks[later] < risks[i]).sum() + (risks[later] == risks[i]).sum() / 2
    return right / pairs


def pooled(sites, split):
    return pd.concat([getattr(site, split) for site in sites])


def scaled(frame, fitted):
    return (frame[fitted["columns"]].to_numpy() - fitted["mean"]) / fitted["scale"]


def federated_iterates_equal_the_pooled_ones(task, sites, federation_weights, lr, rounds):
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    every = pooled(sites, "train")
    np.testing.assert_allclose(fitted["mean"], every[fitted["columns"]].mean(), rtol=1e-9)
    weights = task.build(ModelSpec("cox"), fitted, 0).arrays()["weight"][0].astype(float)
    for _ in range(rounds):
        parts = [
            breslow(
                weights,
                scaled(s.train, fitted),
                s.train[task.time].to_numpy(),
                s.train[task.event].to_numpy(),
            )
            for s in sites
        ]
        weights = weights - lr * sum(gradient for _, gradient in parts) / len(every)
    np.testing.assert_allclose(federation_weights, weights, rtol=1e-4, atol=1e-5)
    return fitted, weights


def scores_equal_the_pooled_ones(task, sites, fitted, weights, card):
    held = pooled(sites, "holdout")
    risks, edges = scaled(held, fitted) @ weights, task.edges
    times, events = held[task.time].to_numpy(), held[task.event].to_numpy()
    losses = [
        breslow(
            weights,
            scaled(s.holdout, fitted),
            s.holdout[task.time].to_numpy(),
            s.holdout[task.event].to_numpy(),
        )[0]
        for s in sites
    ]
    assert card["partial_nll"] == pytest.approx(sum(losses) / events.sum(), rel=1e-4)
    from my_survival import RISKS

    binned = concordance(np.digitize(risks, RISKS), np.digitize(times, edges), events)
    assert card["concordance"] == pytest.approx(binned, abs=2e-3)  # float32 risks at an edge
    return concordance(risks, times, events)


def run(tmp_path, *overrides):
    folder = tmp_path / "config" / "usecase"
    folder.mkdir(parents=True)
    (folder / "survival.yaml").write_text(block("yaml"))
    search = f"hydra.searchpath=[file://{tmp_path / 'config'}]"
    options = [search, "usecase=survival", "board.url=null", *overrides]
    config = compose_overrides(options, tmp_path / "run")
    outcome = launch(config)
    task = load_task("survival", config.schema)
    sites = [
        task.read(
            DataSource(
                site["name"],
                site["data"]["train"],
                holdout_fraction=site["data"]["holdout_fraction"],
                partition=Partition(**site["data"]["partition"]),
            ),
            config.split_seed,
        )
        for site in config.site_data
    ]
    return config, outcome, task, sites


def check(tmp_path, config, outcome, task, sites):
    assert [record.status for record in outcome.rounds] == ["ok"] * (config.rounds + 1)
    found, last = outcome.arrays["weight"][0], outcome.rounds[-1].card.overall.values
    fitted, _ = federated_iterates_equal_the_pooled_ones(
        task, sites, found, config.train.lr, config.rounds
    )
    exact = scores_equal_the_pooled_ones(task, sites, fitted, found.astype(float), last)
    assert last["partial_nll"] < outcome.rounds[0].card.overall.values["partial_nll"]
    return exact, last


def test_the_run_is_gradient_descent_on_the_stratified_likelihood(tmp_path):
    exact, last = check(tmp_path, *run(tmp_path, "usecase.time_bins=[1,2,3,5,8,13]"))
    assert last["concordance"] > 0.65
    assert abs(last["concordance"] - exact) < 0.05


def test_real_patients_of_six_regions(tmp_path, install_plugin):
    folder = Path(__file__).parents[3] / "shared" / "data" / "fed_tcga_brca"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    rows = pd.read_csv(folder / "brca.csv")
    centres = pd.read_csv(folder / "centers.csv", keep_default_na=False)
    region = dict(zip(centres["TSS Code"], centres["Region"], strict=True))
    rows["region"] = rows["pid"].str[5:7].map(region)
    rows = rows[rows["region"] != "Other"]
    rows.to_csv(tmp_path / "tcga.csv", index=False)
    read = f"return pandas.read_csv({str(tmp_path / 'tcga.csv')!r})"
    source = f"import pandas\n\n\ndef read():\n    {read}\n"
    install_plugin("my-tcga", {"datasets": {"tcga_brca": "my_tcga:read"}}, my_tcga=source)
    columns = [
        "age_at_index",
        "ajcc_pathologic_n_N1",
        "ajcc_pathologic_n_N2",
        "ajcc_pathologic_t_T2",
        "ajcc_pathologic_t_T3",
        "prior_malignancy_yes",
    ]
    options = [
        f"usecase.columns=[{','.join(columns)}]",
        "data.dataset=tcga_brca",
        "data.num_sites=6",
        "rounds=15",
        "train.lr=1.0",
    ]
    exact, last = check(tmp_path, *run(tmp_path, *options))
    assert last["concordance"] > 0.55
    assert abs(last["concordance"] - exact) < 0.05
