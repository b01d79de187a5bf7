"""Each site in its own units, incomplete rows, dropped first levels, scikit-learn's split."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from fl_common.errors import ConfigError, DataError
from tasks.contract import DataSource, LocalObjective, ModelSpec, TrainConfig
from tasks.registry import load_task
from tasks.sites.splits import split_like_sklearn
from tasks.stats import Stats
from tasks.tabular.encode import Encoder

COLORS = ["blue", "green", "red"]


def make_task(**keys):
    schema = {"target": "y", "classes": ["no", "yes"], "categorical": ["color"], **keys}
    return load_task("tabular_classification", schema)


def frame(seed, rows=60, shift=0.0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "x": rng.normal(shift, 1 + seed, rows),
            "z": rng.normal(1e9 + shift, 0.5, rows),
            "color": rng.choice(COLORS[: 2 + seed % 2], rows),
            "y": rng.choice(["no", "yes"], rows),
        }
    )


@pytest.fixture
def sites(tmp_path):
    """Two sites far apart; the first has no red."""
    return [write(tmp_path, name, frame(i, shift=50.0 * i)) for i, name in enumerate("ab")]


def write(folder, name, table):
    path = folder / f"{name}.csv"
    table.to_csv(path, index=False)
    return DataSource(name, str(path))


def fitted_on(task, sites):
    datas = [task.read(source, 0) for source in sites]
    return datas, task.prepare(Stats.total(task.fit(data, 1) for data in datas))


def test_every_input_has_mean_0_and_deviation_1_at_every_site(sites):
    task = make_task(scaler="per_site")
    datas, fitted = fitted_on(task, sites)
    encoder = Encoder(fitted)
    assert encoder.feature_names == [
        *(f"color={color}" for color in COLORS),
        "color:other",
        "x",
        "z",
    ]
    for data in datas:
        inputs = data.tensors(encoder, "train").inputs.numpy()
        varies = inputs.std(axis=0) > 0
        np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(inputs[:, varies].std(axis=0), 1, rtol=1e-5)
        assert varies[-2:].all()
    red = encoder.feature_names.index("color=red")
    assert not datas[0].tensors(encoder, "train").inputs[:, red].any()  # absent there: 0, not NaN


def test_holdout_is_scaled_by_the_training_rows_as_sklearn_does(sites):
    task = make_task(scaler="per_site")
    datas, fitted = fitted_on(task, sites)
    encoder = Encoder(fitted)
    for data in datas:
        scaler = StandardScaler().fit(data.train.numeric)
        np.testing.assert_allclose(
            data.tensors(encoder, "holdout").inputs[:, -2:].numpy(),
            scaler.transform(data.holdout.numeric),
            rtol=1e-5,
            atol=1e-6,
        )


def test_nothing_more_leaves_than_with_the_global_scaler(sites):
    plain, own = make_task(), make_task(scaler="per_site")
    for source in sites:
        sent, as_before = (t.fit(t.read(source, 0), 5) for t in (own, plain))
        assert set(sent) == set(as_before)
        for name in sent:
            np.testing.assert_array_equal(sent[name], as_before[name])


def test_blocks_put_the_sites_mean_in_place_of_what_is_left_out(sites):
    _, fitted = fitted_on(make_task(scaler="per_site"), sites)
    assert not Encoder(fitted).baseline.any()


@pytest.mark.parametrize("scaler", ["standard", "none"])
def test_other_scalers_have_no_own_units(sites, scaler):
    datas, fitted = fitted_on(make_task(scaler=scaler), sites)
    encoder = Encoder(fitted)
    assert not encoder.per_site
    pooled = np.concatenate([data.train.numeric for data in datas])
    inputs = np.concatenate([d.tensors(encoder, "train").inputs[:, -2:].numpy() for d in datas])
    wanted = StandardScaler().fit_transform(pooled) if scaler == "standard" else pooled
    np.testing.assert_allclose(inputs, wanted, rtol=1e-5, atol=1e-4)


def test_predict_uses_the_pooled_statistics_row_by_row(sites, tmp_path):
    task = make_task(scaler="per_site", imputation="mean")
    datas, fitted = fitted_on(task, sites)
    model = task.build(ModelSpec("linear"), fitted, 3)
    rows = pd.concat([frame(5, rows=7), frame(6, rows=5)]).drop(columns="y")
    rows.iloc[0, 0] = np.nan  # imputed by the pooled mean: 0 in pooled units
    rows.to_csv(tmp_path / "rows.csv", index=False)
    rows.iloc[[3]].to_csv(tmp_path / "row.csv", index=False)
    found = task.predict(model, tmp_path / "rows.csv")

    raw = [data.train for data in datas]
    hot = np.concatenate(
        [np.eye(3)[[COLORS.index(r.levels[0][c]) for c in r.codes[:, 0]]] for r in raw]
    )
    numbers = np.concatenate([r.numeric for r in raw])
    colors, values = StandardScaler().fit(hot), StandardScaler().fit(numbers)
    filled = rows[["x", "z"]].fillna({"x": numbers[:, 0].mean()}).to_numpy()
    one_hot = np.eye(3)[[COLORS.index(c) for c in rows["color"]]]
    inputs = np.hstack(
        [colors.transform(one_hot), np.zeros((len(rows), 1)), values.transform(filled)]
    )
    with torch.no_grad():
        logits = model.module(torch.from_numpy(inputs.astype(np.float32)))
    np.testing.assert_allclose(
        found["proba_yes"], torch.softmax(logits.double(), dim=1)[:, 1], rtol=1e-4, atol=1e-6
    )
    alone = task.predict(model, tmp_path / "row.csv")
    assert alone["proba_yes"][0] == pytest.approx(found["proba_yes"][3], rel=1e-5)


def test_dropped_first_level_has_no_input_and_unknown_values_look_like_it(tmp_path):
    table = frame(1)
    table.loc[0, "color"] = "violet"
    categories = {"color": COLORS}
    task = make_task(scaler="none", one_hot="drop_first", categories=categories)
    source = write(tmp_path, "a", table)
    datas, fitted = fitted_on(task, [source])
    encoder = Encoder(fitted)
    assert encoder.feature_names == ["color=green", "color=red", "x", "z"]
    task_rows = task.read(DataSource("a", source.train, holdout=source.train), 0).train
    inputs = encoder.encode(task_rows, "a")
    wanted = np.column_stack([table["color"] == "green", table["color"] == "red"])
    np.testing.assert_array_equal(inputs[:, :2], wanted)
    assert len(datas) == 1


def test_incomplete_rows_are_dropped_before_the_split_and_noted(tmp_path):
    table = frame(1)
    table.loc[[3, 4], "x"] = np.nan
    table.loc[4, "color"] = ""
    table["unused"] = np.where(np.arange(len(table)) < 30, np.nan, 1.0)
    source = write(tmp_path, "a", table)
    task = make_task(drop_incomplete=True, columns=["x", "z", "color"])
    data = task.read(source, 0)
    assert data.num_train + data.num_holdout == 58
    assert "2 of 60 rows have a missing value and are left out" in data.notes
    for rows in (data.train, data.holdout):
        assert np.isfinite(rows.numeric).all()
        assert (rows.codes >= 0).all()
    other = task.read(DataSource("a", source.train, holdout=source.train), 0)
    assert (other.num_train, other.num_holdout) == (58, 58)
    kept = make_task(columns=["x", "z", "color"]).read(source, 0)
    assert kept.num_train + kept.num_holdout == 60


def test_no_complete_row_is_an_error(tmp_path):
    source = write(tmp_path, "a", frame(1).assign(x=np.nan))
    with pytest.raises(DataError, match="site 'a' has no complete row; it needs at least 2"):
        make_task(drop_incomplete=True).read(source, 0)


def test_sklearn_split_is_sklearns_split(tmp_path):
    table = frame(2)
    source = write(tmp_path, "a", table)
    data = make_task(split="sklearn").read(
        DataSource("a", source.train, holdout_fraction=0.34, split_seed=43), 0
    )
    kept, held = train_test_split(
        np.arange(60), train_size=0.66, random_state=43, stratify=table["y"]
    )
    np.testing.assert_array_equal(data.train.numeric[:, 0], table["x"][np.sort(kept)])
    np.testing.assert_array_equal(data.holdout.numeric[:, 0], table["x"][np.sort(held)])


def test_sklearn_split_is_not_stratified_where_a_class_has_two_rows():
    labels = np.array([0] * 2 + [1] * 28)
    kept, held = split_like_sklearn(30, labels, 0.34, 43)
    plain, _ = train_test_split(np.arange(30), train_size=0.66, random_state=43)
    np.testing.assert_array_equal(kept, np.sort(plain))
    assert len(kept) + len(held) == 30


def test_sklearn_split_of_too_few_rows_says_what_to_do():
    with pytest.raises(ConfigError, match=r"choose usecase\.split=stratified"):
        split_like_sklearn(2, None, 0.9, 0)
    with pytest.raises(ConfigError, match="holdout_fraction is 1"):
        split_like_sklearn(20, None, 1, 0)


def test_logistic_is_a_softmax_with_half_the_learning_rate(sites):
    task = make_task()
    datas, fitted = fitted_on(task, sites)
    one, two = (
        task.build(ModelSpec(name, {"init": "zeros"}), fitted, 0) for name in ("logistic", "linear")
    )
    assert {name: a.shape for name, a in one.arrays().items()} == {
        "0.weight": (1, 6),
        "0.bias": (1,),
    }
    for model, lr in ((one, 0.2), (two, 0.1)):
        task.train(model, datas[0], TrainConfig(lr=lr, batch_size=8), LocalObjective(), 1)
    (w, b), (w2, b2) = (list(model.arrays().values()) for model in (one, two))
    np.testing.assert_allclose(w[0], w2[1] - w2[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(b[0], b2[1] - b2[0], rtol=1e-4, atol=1e-6)


def test_logistic_is_for_two_classes():
    task = load_task("tabular_classification", {"target": "y", "classes": ["a", "b", "c"]})
    with pytest.raises(ConfigError, match="two classes; set model=linear"):
        task.check(ModelSpec("logistic"), TrainConfig())
    task = load_task("tabular_regression", {"target": "y"})
    with pytest.raises(ConfigError, match="two classes"):
        task.check(ModelSpec("logistic"), TrainConfig())


@pytest.mark.parametrize(
    "keys", [{"one_hot": "none"}, {"split": "random"}, {"drop_incomplete": "yes"}]
)
def test_unknown_values_are_config_errors(keys):
    with pytest.raises(ConfigError, match=next(iter(keys))):
        make_task(**keys)
