import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from fl_common.errors import SchemaError
from tasks.contract import DataSource
from tasks.registry import load_task
from tasks.stats import Stats
from tasks.tabular.encode import Encoder
from tasks.tabular.files import Table
from tasks.tabular.moments import (
    BIN_ERROR,
    Moments,
    finalise_moments,
    histogram_median,
    moment_stats,
    value_histogram,
)
from tasks.tabular.preprocess import fit_rows, prepare
from tasks.tabular.rows import labelled_rows
from tasks.tabular.schema import TabularSchema


def make_schema(**keys):
    keys = {"target": "y", "classes": ["no", "yes"], **keys}
    return TabularSchema.from_mapping(keys, classification=True)


def rows_of(frame, schema):
    return labelled_rows(Table(frame, "t"), schema)


def fit(frames, schema, min_group_size=1):
    parts = (fit_rows(rows_of(frame, schema), schema, min_group_size) for frame in frames)
    return prepare(Stats.total(parts), schema)


def labelled(**columns):
    frame = pd.DataFrame(columns)
    return frame.assign(y=["no", "yes"] * (len(frame) // 2) + ["no"] * (len(frame) % 2))


values = arrays(
    np.float64,
    st.tuples(st.integers(14, 40), st.just(3)),
    elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.just(np.nan)),
)


@settings(max_examples=60, deadline=None)
@given(values, st.sampled_from([2, 4, 7]), st.sampled_from([0.0, 1e5]), st.randoms())
def test_scaler_and_imputer_equal_sklearn_on_the_pooled_rows(matrix, num_sites, offset, random):
    matrix = matrix + offset
    matrix[0] = 1.0  # a column needs a value
    frame = labelled(**{f"x{j}": matrix[:, j] for j in range(3)})
    cuts = sorted(random.sample(range(1, len(frame)), num_sites - 1))
    parts = [frame.iloc[a:b] for a, b in zip([0, *cuts], [*cuts, len(frame)], strict=True)]
    schema = make_schema()
    fitted = fit(parts, schema)
    scaler = StandardScaler().fit(matrix)
    mean, scale = (np.array([fitted["numeric"][f"x{j}"][k] for j in range(3)]) for k in KEYS)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(scale, scaler.scale_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(mean, SimpleImputer().fit(matrix).statistics_, rtol=1e-6, atol=1e-9)
    encoded = Encoder(fitted).encode(rows_of(frame, schema), "t")
    expected = np.nan_to_num(scaler.transform(matrix))
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-5)
    assert encoded.dtype == np.float32


KEYS = ("mean", "scale")


@pytest.mark.parametrize("mean", [0.0, 2e3, 1.7e9, -1e12])
def test_variance_survives_a_mean_much_larger_than_the_spread(mean):
    noise = np.random.default_rng(0).normal(0, 3600, (50_000, 1))
    values = np.round(noise * 2**10) / 2**10 + mean  # exact in float64
    parts = np.array_split(values, [7, 900, 901, 30_000])
    pooled = finalise_moments(Stats.total(moment_stats(part) for part in parts))[0]
    centred = values - values[0]
    assert pooled.mean == pytest.approx(values[0, 0] + centred.mean(), rel=1e-14)
    precision = 1e-6 if abs(mean) > 1e10 else 1e-9
    assert pooled.scale == pytest.approx(centred.std(), rel=precision)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 / 3, -1e-300, 1e100])
def test_constant_column_has_scale_one(value):
    parts = [np.full((n, 1), value) for n in (3, 1, 1000)]
    pooled = finalise_moments(Stats.total(map(moment_stats, parts)))[0]
    assert pooled.scale == 1.0
    assert pooled.mean == pytest.approx(value, rel=1e-15)


@settings(max_examples=80, deadline=None)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 60), st.just(1)),
        elements=st.floats(-1e8, 1e8).filter(lambda v: v == 0 or abs(v) > 1e-5),
    )
)
def test_histogram_median_stays_within_its_bound(values):
    histogram = value_histogram(values)[0]
    assert histogram.sum() == len(values)
    moments = finalise_moments(moment_stats(values))[0]
    ordered = np.sort(values[:, 0])
    middle = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
    bound = BIN_ERROR * np.abs(middle).max() + 1e-6
    assert abs(histogram_median(histogram, moments) - np.mean(middle)) <= bound


def test_median_far_from_zero_is_within_a_standard_deviation():
    years = np.array([[2019.0], [2020.0], [2021.0], [np.nan]])
    median = histogram_median(value_histogram(years)[0], Moments(3, 2020.0, 2 / 3))
    assert abs(median - 2020) <= 1


def test_median_imputation_fills_the_encoded_value():
    schema = make_schema(imputation="median")
    frame = labelled(x=[1.0, 2.0, 3.0, 100.0, np.nan, 3.0])
    fitted = fit([frame.iloc[:2], frame.iloc[2:]], schema)
    known = fitted["numeric"]["x"]
    assert known["median"] == pytest.approx(3.0, rel=BIN_ERROR)
    encoded = Encoder(fitted).encode(rows_of(frame, schema), "t")[4, 0]
    assert encoded == pytest.approx((known["median"] - known["mean"]) / known["scale"])


def test_without_scaler_values_stay_and_means_fill():
    schema = make_schema(scaler="none")
    frame = labelled(x=[1.0, 3.0, np.nan])
    encoder = Encoder(fit([frame], schema))
    assert encoder.encode(rows_of(frame, schema), "t").ravel().tolist() == [1, 3, 2]
    assert encoder.baseline.tolist() == [2.0]


def test_rare_categories_are_folded_before_they_leave():
    schema = make_schema(categorical=["k"])
    frame = labelled(k=["a"] * 5 + ["b"] * 4 + ["rare1", "rare2", "rare3"] + [None])
    stats = fit_rows(rows_of(frame, schema), schema, 3)
    sent = {n: int(a) for n, a in stats.items() if n.startswith("category/")}
    assert sent == {"category/k/value/a": 5, "category/k/value/b": 4, "category/k/other": 4}
    few = fit_rows(rows_of(frame, schema), schema, 5)
    assert [n for n in few if n.startswith("category/")] == [
        "category/k/value/a",
        "category/k/other",
    ]
    tiny = fit_rows(rows_of(frame.iloc[:7], schema), schema, 5)
    assert [n for n in tiny if n.startswith("category/")] == ["category/k/value/a"]


def test_small_numeric_group_is_not_summed():
    schema = make_schema()
    frame = labelled(x=[7.0, np.nan, np.nan, np.nan], z=[1.0, 2, 3, 4])
    stats = fit_rows(rows_of(frame, schema), schema, 3)
    count = next(a for n, a in stats.items() if n.endswith("/count"))
    total = next(a for n, a in stats.items() if n.startswith("numeric") and n.endswith("/sum"))
    assert count.tolist() == [0, 4]
    assert not total[0].any()


def test_one_hot_has_levels_other_and_missing():
    schema = make_schema(categorical=["k"])
    site1, site2 = labelled(k=["a", "b/c", "a", None]), labelled(k=["d%", "a"])
    fitted = fit([site1, site2], schema)
    encoder = Encoder(fitted)
    assert encoder.feature_names == ["k=a", "k=b/c", "k=d%", "k:other", "k:missing"]
    np.testing.assert_allclose(encoder.baseline, np.array([3, 1, 1, 0, 1]) / 6)
    new = labelled(k=["a", "zzz", None, "d%"])
    np.testing.assert_array_equal(
        encoder.encode(rows_of(new, schema), "t").argmax(axis=1), [0, 3, 4, 2]
    )


def test_missing_category_is_zeros_when_no_site_sent_any():
    schema = make_schema(categorical=["k"], categories={"k": ["b", "a"]})
    encoder = Encoder(fit([labelled(k=["a", "b", "x"])], schema))
    assert encoder.feature_names == ["k=b", "k=a", "k:other"]
    encoded = encoder.encode(rows_of(labelled(k=["a", None, "x"]), schema), "t")
    assert encoded.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_encoding_does_not_depend_on_the_order_of_columns_in_a_file():
    schema = make_schema(categorical=["k"])
    frame = labelled(z=[1.0, 2, 3, 4], k=list("abca"), a=[4.0, 3, 2, 1])
    shuffled = frame[["k", "a", "y", "z"]]
    fitted = fit([frame, shuffled], schema)
    assert fitted["columns"] == ["a", "k", "z"]
    encoder = Encoder(fitted)
    np.testing.assert_array_equal(
        encoder.encode(rows_of(frame, schema), "t"), encoder.encode(rows_of(shuffled, schema), "t")
    )
    assert [encoder.columns[i] for i in encoder.feature_columns] == ["a"] + ["k"] * 4 + ["z"]


def test_sites_with_different_columns_are_named():
    schema = make_schema()
    one, other = labelled(a=[1.0, 2], b=[1.0, 2]), labelled(a=[1.0, 2], c=[1.0, 2])
    with pytest.raises(SchemaError, match=r"'b' \(2 of 3 sites\), 'c' \(1 of 3 sites\); add"):
        fit([one, one, other], schema)


@pytest.mark.parametrize(
    ("frame", "keys", "message"),
    [
        (labelled(a=[1.0, 2], b=[np.nan, np.nan]), {}, "column 'b' has no value at any site"),
        (
            labelled(a=[1.0, 2], k=pd.Series([None, None], dtype="str")),
            {"categorical": ["k"]},
            "column 'k' has no value at any site",
        ),
        (labelled(a=[1.0, 2]).assign(y="no"), {}, r"one class only \('no'\)"),
        (
            labelled(a=[1.0, 2]),
            {"feature_blocks": {"lab": ["lab_*"]}},
            "feature_blocks.lab matches",
        ),
    ],
)
def test_unusable_pooled_data(frame, keys, message):
    with pytest.raises(SchemaError, match=message):
        fit([frame, frame], make_schema(**keys))


def test_no_site_is_a_schema_error():
    with pytest.raises(SchemaError, match="no site sent statistics"):
        prepare(Stats(), make_schema())


def test_all_missing_column_at_one_site_takes_the_global_mean(tmp_path):
    (tmp_path / "a.csv").write_text("x,z,y\n,1,no\n,2,yes\n")
    (tmp_path / "b.csv").write_text("x,z,y\n1,1,no\n5,2,yes\n")
    task = load_task("tabular_classification", {"target": "y", "classes": ["no", "yes"]})
    sites = [
        task.read(DataSource(p, str(tmp_path / f"{p}.csv"), holdout=str(tmp_path / f"{p}.csv")), 0)
        for p in "ab"
    ]
    assert "column 'x' has no value; the global mean is used" in sites[0].notes
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    assert fitted["numeric"]["x"] == {"mean": 3.0, "scale": 2.0, "count": 2}
    assert (Encoder(fitted).encode(sites[0].train, "a")[:, 0] == 0).all()


def test_fitted_has_class_counts_and_target_moments():
    fitted = fit([labelled(x=[1.0, 2, 3]), labelled(x=[1.0, 2])], make_schema())
    assert fitted["class_counts"] == [3, 2]
    assert (fitted["num_sites"], fitted["num_rows"]) == (2, 5)
    schema = TabularSchema.from_mapping({"target": "y"}, classification=False)
    frame = pd.DataFrame({"x": [1.0, 2, 4], "y": [10.0, 20, 60]})
    fitted = fit([frame.iloc[:1], frame.iloc[1:]], schema)
    assert fitted["target"] == {"mean": 30.0, "scale": pytest.approx(np.std([10, 20, 60]))}
    encoder = Encoder(json.loads(json.dumps(fitted)))
    scaled = encoder.scale_target(frame["y"].to_numpy())
    np.testing.assert_allclose(encoder.unscale(scaled), frame["y"], rtol=1e-6)


def test_encoding_rows_without_a_fitted_column():
    encoder = Encoder(fit([labelled(a=[1.0, 2], b=[1.0, 2])], make_schema()))
    schema = make_schema()
    with pytest.raises(SchemaError, match="late: column 'b' is missing"):
        encoder.encode(rows_of(labelled(a=[1.0, 2]), schema), "late")


def test_a_column_of_values_that_no_site_may_name_is_told_with_the_cure(caplog):
    schema = make_schema(categorical=["k", "m"])
    frame = labelled(a=np.arange(6.0), k=list("abcdef"), m=list("xxxyyy"))
    fitted = fit([frame, frame], schema, min_group_size=3)
    assert fitted["categorical"]["k"]["levels"] == []
    assert fitted["categorical"]["m"]["levels"] == ["x", "y"]
    (record,) = [r for r in caplog.records if "tells rows nothing" in r.getMessage()]
    assert "column 'k'" in record.getMessage()
    assert "usecase.exclude=[k]" in record.getMessage()
