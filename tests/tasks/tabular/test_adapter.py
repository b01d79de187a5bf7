import numpy as np
import pandas as pd
import pytest
import torch

from fl_common.errors import SchemaError
from tasks.contract import DataSource, LocalObjective, ModelSpec, Partition, TrainConfig
from tasks.metrics import classification_stats, finalise_classification
from tasks.registry import load_task
from tasks.stats import Stats

NONE = LocalObjective()


@pytest.fixture
def frame():
    rng = np.random.default_rng(1)
    size = 120
    frame = pd.DataFrame(
        {
            "gene_a": rng.normal(5, 2, size),
            "gene_b": rng.normal(0, 1, size),
            "dose": rng.choice(["low", "high"], size, p=[0.7, 0.3]),
            "clinic": rng.choice(["n", "s"], size),
        }
    )
    score = frame.gene_a - 5 + 2 * (frame.dose == "high") + rng.normal(0, 0.2, size)
    frame["value"] = 100 + 20 * score
    frame["y"] = np.where(score > 0.5, "case", "control")
    return frame


@pytest.fixture
def path(tmp_path, frame):
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def classification(**keys):
    schema = {
        "target": "y",
        "classes": ["control", "case"],
        "exclude": ["value", "clinic"],
        "categorical": ["dose"],
        "subgroups": {"north": {"column": "clinic", "values": ["n"]}, "cases": {"class": "case"}},
        "feature_blocks": {"genes": ["gene_*"], "dose": ["dose"]},
    }
    return load_task("tabular_classification", schema | keys)


def trained(task, path, num_sites=3, epochs=20, spec=None):
    cuts = (Partition("iid", num_sites, i) for i in range(num_sites))
    sites = [task.read(DataSource("s", str(path), partition=cut), 0) for cut in cuts]
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    model = task.build(spec or ModelSpec("mlp", {"hidden": [16]}), fitted, 0)
    for site in sites:
        task.train(model, site, TrainConfig("adam", 0.01, local_epochs=epochs), NONE, 0)
    return sites, fitted, model


def test_pooled_scores_equal_those_of_predictions_on_the_pooled_rows(path, frame):
    task = classification()
    sites, fitted, model = trained(task, path)
    card = task.finalise(Stats.total(task.evaluate(model, site) for site in sites), fitted)
    rows = [site.holdout for site in sites]
    inputs = np.concatenate([model.encoder.encode(part, "s") for part in rows])
    targets = np.concatenate([part.target for part in rows])
    groups = np.concatenate([part.groups for part in rows])
    with torch.no_grad():
        scores = torch.softmax(model.module(torch.from_numpy(inputs)).double(), 1).numpy()

    def expected(member):
        stats = classification_stats(targets[member], scores[member])
        return pytest.approx(finalise_classification(stats, fitted["classes"]).values, rel=1e-6)

    assert card.overall.values["accuracy"] > 0.8
    assert card.overall.values == expected(np.ones(len(targets), dtype=bool))
    assert card.subgroups["north"].values == expected(groups[:, 0])
    assert card.subgroups["cases"].values == expected(groups[:, 1])


def test_block_scores_keep_one_block_and_set_the_rest_to_its_mean(path):
    task = classification()
    sites, fitted, model = trained(task, path, num_sites=1)
    card = task.finalise(task.evaluate(model, sites[0]), fitted)
    holdout, encoder = sites[0].holdout, model.encoder
    assert encoder.feature_names[:2] == ["dose=high", "dose=low"]
    inputs = encoder.encode(holdout, "s")
    counts = fitted["categorical"]["dose"]["counts"]
    inputs[:, :3] = np.array([*counts, 0]) / sum(counts)
    with torch.no_grad():
        predicted = model.module(torch.from_numpy(inputs)).argmax(1).numpy()
    accuracy = (predicted == holdout.target).mean()
    assert card.blocks["genes"].values["accuracy"] == pytest.approx(accuracy)
    assert card.blocks["dose"].values["accuracy"] < card.overall.values["accuracy"]


def test_attributions_of_a_linear_regression_are_weight_times_input(path):
    task = load_task("tabular_regression", {"target": "value", "columns": ["gene_*"]})
    sites, fitted, model = trained(task, path, spec=ModelSpec("linear"))
    card = task.finalise(Stats.total(task.evaluate(model, site) for site in sites), fitted)
    inputs = np.concatenate([model.encoder.encode(site.holdout, "s") for site in sites])
    expected = np.abs(inputs * model.arrays()["0.weight"]).mean(axis=0)
    assert list(card.attributions) == ["gene_a", "gene_b"]
    np.testing.assert_allclose(list(card.attributions.values()), expected, rtol=1e-5)
    assert card.attributions["gene_a"] > card.attributions["gene_b"]


def test_only_declared_scopes_are_computed(path):
    task = classification(subgroups={}, feature_blocks={}, attributions=False)
    sites, fitted, model = trained(task, path, epochs=1)
    stats = task.evaluate(model, sites[0])
    assert {name.partition("/")[0] for name in stats} == {"overall"}
    card = task.finalise(stats, fitted)
    assert (card.subgroups, card.blocks, card.attributions) == ({}, {}, {})


def test_subgroup_without_rows_is_absent_with_a_reason(path):
    task = classification(subgroups={"mars": {"column": "clinic", "values": ["m"]}})
    sites, fitted, model = trained(task, path, epochs=1)
    card = task.finalise(task.evaluate(model, sites[0]), fitted)
    assert not card.subgroups["mars"].values
    assert "no rows" in card.subgroups["mars"].absent["accuracy"]


def test_predict_needs_no_target_and_equals_evaluation(path, frame, tmp_path):
    task = classification()
    _, _, model = trained(task, path, num_sites=1)
    rows = tmp_path / "new.csv"
    frame[["dose", "gene_b", "gene_a"]].to_csv(rows, index=False)
    predicted = task.predict(model, rows)
    assert list(predicted.columns) == ["prediction", "proba_control", "proba_case"]
    assert len(predicted) == len(frame)
    np.testing.assert_allclose(predicted[["proba_control", "proba_case"]].sum(axis=1), 1)
    assert (predicted["prediction"] == frame["y"]).mean() > 0.85
    frame.drop(columns=["gene_b", "y"]).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(SchemaError, match="column 'gene_b' is missing; did you mean 'gene_a'"):
        task.predict(model, tmp_path / "bad.parquet")


@pytest.mark.parametrize("scaling", [True, False])
def test_regression_predicts_in_the_targets_own_unit(path, frame, scaling):
    schema = {"target": "value", "exclude": ["y", "clinic"], "categorical": ["dose"]}
    task = load_task("tabular_regression", {**schema, "target_scaling": scaling})
    sites, fitted, model = trained(task, path, epochs=40)
    assert (fitted["target"]["mean"], fitted["target"]["scale"]) == pytest.approx(
        (112, 45), rel=0.2
    )
    predicted = task.predict(model, path)["prediction"]
    if scaling:
        card = task.finalise(Stats.total(task.evaluate(model, site) for site in sites), fitted)
        assert card.overall.values["r2"] > 0.9
        assert np.abs(predicted - frame["value"]).mean() < 15
    else:
        with torch.no_grad():
            inputs = torch.from_numpy(model.encoder.encode(sites[0].holdout, "s"))
            raw = model.module(inputs)[:, 0].numpy()
        np.testing.assert_allclose(model.encoder.unscale(raw), raw)


def test_one_class_site_trains_and_scores(tmp_path, frame):
    (tmp_path / "one").mkdir()
    mixed, single = tmp_path / "mixed.csv", tmp_path / "single.csv"
    frame.to_csv(mixed, index=False)
    frame[frame.y == "case"].to_csv(single, index=False)
    task = classification()
    sites = [task.read(DataSource(p.stem, str(p)), 0) for p in (mixed, single)]
    assert "one class only: 'case'" in " ".join(sites[1].notes)
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    model = task.build(ModelSpec("linear"), fitted, 0)
    task.train(model, sites[1], TrainConfig(class_weight="balanced"), NONE, 0)
    card = task.finalise(task.evaluate(model, sites[1]), fitted)
    assert "auc_roc" in card.overall.absent


def test_encoded_rows_are_kept_until_preprocessing_changes(path):
    task = classification()
    sites, fitted, model = trained(task, path, epochs=1)
    first = sites[0].tensors(model.encoder, "train")
    same = task.build(ModelSpec("linear"), fitted, 1)
    assert sites[0].tensors(same.encoder, "train").inputs is first.inputs
    other = task.build(ModelSpec("linear"), task.prepare(task.fit(sites[1], 1)), 1)
    assert sites[0].tensors(other.encoder, "train").inputs is not first.inputs
