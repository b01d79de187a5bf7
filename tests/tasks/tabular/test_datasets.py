from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, mean_squared_error
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fl_common.errors import ConfigError, DataError
from tasks.datasets import generated
from tasks.datasets.folder import data_root
from tasks.datasets.heart_disease import HOSPITALS
from tasks.tabular.datasets import dataset_names, load_dataset

CONF = Path(__file__).resolve().parents[3] / "conf"
USECASES = sorted(path.stem for path in (CONF / "usecase").glob("*.yaml"))
GENERATED = ("liquid_biopsy", "rare_disease", "small_regression")


@pytest.fixture
def heart() -> pd.DataFrame:
    try:
        return load_dataset("heart_disease")
    except DataError as absent:
        pytest.skip(f"UCI heart disease files are not here: {absent}")


@pytest.mark.parametrize(
    ("name", "shape", "target", "num_classes"),
    [
        ("breast_cancer", (569, 31), "diagnosis", 2),
        ("diabetes", (442, 11), "progression", None),
        ("digits", (1797, 65), "digit", 10),
        ("iris", (150, 5), "species", 3),
        ("wine", (178, 14), "cultivar", 3),
        ("rare_disease", (320, 255), "disease", 3),
        ("liquid_biopsy", (1200, 154), "disease_activity", None),
        ("small_regression", (60, 7), "value", None),
    ],
)
def test_table_has_its_stated_shape(name, shape, target, num_classes):
    frame = load_dataset(name)
    assert frame.shape == shape
    assert not frame[target].isna().any()
    assert not any(" " in column for column in frame.columns)
    assert list(frame.index) == list(range(shape[0]))
    if num_classes is not None:
        assert frame[target].nunique() == num_classes
    else:
        assert np.issubdtype(frame[target].dtype, np.number)


def test_every_name_is_listed_and_cached():
    assert {*GENERATED, "breast_cancer", "heart_disease"} <= set(dataset_names())
    assert load_dataset("wine") is load_dataset("wine")


def test_load_dataset_suggests_a_near_name():
    with pytest.raises(ConfigError, match="did you mean 'breast_cancer'"):
        load_dataset("breast_cance")
    with pytest.raises(ConfigError, match="choose from 'breast_cancer'"):
        load_dataset("zzz")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_table_is_the_same_every_time(name):
    pd.testing.assert_frame_equal(getattr(generated, name)(), load_dataset(name))


@pytest.mark.parametrize("name", GENERATED)
def test_generated_table_has_no_duplicate_and_no_constant(name):
    frame = load_dataset(name)
    assert not frame.duplicated().any()
    assert (frame.nunique() > 1).all()


def test_rare_disease_has_the_stated_classes_and_features():
    frame = load_dataset("rare_disease")
    assert Counter(frame["disease"]) == {"CF": 165, "DMD": 89, "SMA": 66}
    features = frame.drop(columns="disease")
    numeric = features.select_dtypes("number")
    assert (numeric.shape[1], features.shape[1] - numeric.shape[1]) == (250, 4)
    variants = numeric.filter(regex="^(CFTR|SMN1)_c_")
    assert variants.shape[1] == 142
    assert set(np.unique(variants)) == {0, 1}


def test_rare_disease_misses_some_visits_and_nothing_else():
    missing = load_dataset("rare_disease").isna().mean()
    assert missing[missing > 0].index.str.contains(r"_v[2-9]$").all()
    assert 0.005 < missing.filter(regex=r"_v\d$").mean() < 0.04


def test_liquid_biopsy_has_three_blocks_and_skewed_markers():
    features = load_dataset("liquid_biopsy").drop(columns="disease_activity")
    blocks = Counter(column.split("_")[0] for column in features)
    assert blocks == {"protein": 100, "marker": 20, "clinical": 33}
    assert not features.isna().any(axis=None)
    assert (features != 0).all(axis=None)
    skew = features.skew()
    assert skew.filter(like="marker_").min() > 1.5
    assert skew.filter(like="protein_").abs().max() < 0.5


def test_small_regression_has_the_stated_targets():
    counts = Counter(load_dataset("small_regression")["value"].tolist())
    assert counts == generated.MILEAGE_COUNTS
    assert (min(counts), max(counts), counts.total()) == (8, 37, 60)


def test_rare_disease_can_be_learned_but_not_perfectly():
    frame = load_dataset("rare_disease")
    features = pd.get_dummies(frame.drop(columns="disease"), dtype=float)
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=0.1))
    predicted = cross_val_predict(model, features, frame["disease"], cv=5)
    assert 0.75 < f1_score(frame["disease"], predicted, average="macro") < 0.97


def test_liquid_biopsy_markers_tell_more_than_proteins():
    frame = load_dataset("liquid_biopsy")
    target = frame["disease_activity"]

    def error(pattern: str) -> float:
        model = make_pipeline(StandardScaler(), Ridge(100.0))
        predicted = cross_val_predict(model, frame.filter(regex=pattern), target, cv=5)
        return mean_squared_error(target, predicted)

    whole, markers, proteins = error("_[0-9]+$"), error("^marker_"), error("^protein_")
    assert 0.09 < whole < markers < proteins < target.var()


def test_small_regression_beats_its_mean():
    frame = load_dataset("small_regression")
    predicted = cross_val_predict(Ridge(), frame.drop(columns="value"), frame["value"], cv=5)
    assert mean_squared_error(frame["value"], predicted) < 0.5 * frame["value"].var()


def test_heart_disease_keeps_every_row_of_four_hospitals(heart):
    assert heart.shape == (920, 15)
    assert Counter(heart["site"]) == dict(zip(HOSPITALS, (303, 294, 123, 200), strict=True))
    present = heart[heart["disease"] == "present"].groupby("site").size()
    assert present.tolist() == [139, 106, 115, 149]
    assert set(heart["disease"]) == {"absent", "present"}


def test_heart_disease_reads_zero_cholesterol_as_missing(heart):
    missing = heart.groupby("site")["chol"].apply(lambda chol: int(chol.isna().sum()))
    assert missing.to_dict() == {"cleveland": 0, "hungarian": 23, "switzerland": 123, "va": 56}
    assert heart["trestbps"].min() > 0
    assert heart["fbs"].isna().sum() == 8 + 75 + 7


def test_heart_disease_usecase_uses_columns_that_survive_everywhere(heart):
    columns = _usecase("heart_disease")["usecase"]["columns"]
    missing = heart.groupby("site")[columns].apply(lambda part: part.isna().mean())
    assert missing.to_numpy().max() < 0.65
    assert heart.columns.drop([*columns, "disease", "site"]).tolist() == [
        "chol",
        "slope",
        "ca",
        "thal",
    ]


def test_heart_disease_file_of_wrong_width_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLEAGUE_DATA", str(tmp_path))
    load_dataset.cache_clear()
    with pytest.raises(DataError, match=r"processed\.cleveland\.data is absent.*FEDLEAGUE_DATA"):
        load_dataset("heart_disease")
    (tmp_path / "heart_disease").mkdir()
    (tmp_path / "heart_disease" / "processed.cleveland.data").write_text("1,2,3\n")
    with pytest.raises(DataError, match="has 3 columns, expected 14"):
        load_dataset("heart_disease")


def test_data_root_prefers_the_environment_then_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("FEDLEAGUE_DATA", raising=False)
    assert data_root() == tmp_path / "shared" / "data"
    monkeypatch.setenv("FEDLEAGUE_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("FEDLEAGUE_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="none is not a folder"):
        data_root()


def test_data_root_names_the_places_it_looked(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("FEDLEAGUE_DATA", raising=False)
    monkeypatch.setattr("tasks.datasets.folder.__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    with pytest.raises(DataError, match=r"shared/data.*set FEDLEAGUE_DATA"):
        data_root()


def _usecase(slug: str) -> dict:
    return yaml.safe_load((CONF / "usecase" / f"{slug}.yaml").read_text())


def test_usecases_are_all_here():
    assert set(USECASES) >= {
        *("breast_cancer", "diabetes", "rare_disease", "liquid_biopsy", "small_regression"),
        *("heart_disease", "tabular_classification", "tabular_regression"),
    }


@pytest.mark.parametrize("slug", USECASES)
def test_usecase_fits_its_table(slug, request):
    conf = _usecase(slug)
    usecase, data = conf["usecase"], conf["data"]
    assert usecase["slug"] == slug
    assert usecase["score"]["direction"] in ("max", "min", "zero")
    if data["dataset"] is None or not usecase["task"].startswith("tabular"):
        return  # pictures: tests/tasks/object_detection/test_usecases.py
    frame = request.getfixturevalue("heart") if slug == "heart_disease" else None
    frame = load_dataset(data["dataset"]) if frame is None else frame
    if "classes" in usecase:
        assert set(usecase["classes"]) == set(frame[usecase["target"]])
    for column, values in usecase.get("categories", {}).items():
        assert set(values) == set(frame[column].dropna())
    for name, patterns in usecase.get("feature_blocks", {}).items():
        for pattern in patterns:
            assert any(fnmatchcase(column, pattern) for column in frame), (name, pattern)
    for rule in usecase.get("subgroups", {}).values():
        assert rule.get("column", usecase["target"]) in frame
    scopes = {"overall"}
    scopes |= {f"subgroups/{name}" for name in usecase.get("subgroups", {})}
    scopes |= {f"blocks/{name}" for name in usecase.get("feature_blocks", {})}
    assert {shown.rpartition("/")[0] for shown in usecase["extra_columns"]} <= scopes
