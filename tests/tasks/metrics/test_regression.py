"""Pooled regression metrics equal scikit-learn on the concatenated rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from fl_common.errors import ConfigError, DataError, DivergedError, ReplyError
from tasks.metrics import finalise_regression, metric_names, regression_stats
from tasks.stats import Stats

BINNED = {"median_absolute_error", "max_error"}


def _reference_numpy_smape(truth, values):
    rows = zip(truth, values, np.abs(truth) + np.abs(values), strict=True)
    return np.mean([200 * abs(v - t) / span if span else 0.0 for t, v, span in rows])


def _reference_sklearn(truth, values):
    out = {
        "mae": sk.mean_absolute_error(truth, values),
        "mse": sk.mean_squared_error(truth, values),
        "rmse": sk.root_mean_squared_error(truth, values),
        "mbe": np.mean(values - truth),
        "mape": sk.mean_absolute_percentage_error(truth, values),
        "smape": _reference_numpy_smape(truth, values),
        "median_absolute_error": sk.median_absolute_error(truth, values),
        "max_error": sk.max_error(truth, values),
    }
    if len(truth) > 1:
        out["r2"] = sk.r2_score(truth, values)
        out["explained_variance"] = sk.explained_variance_score(truth, values)
    if min(truth.min(), values.min()) > -1:
        out["rmsle"] = sk.root_mean_squared_log_error(truth, values)
    return out


def _draw(seed, num_rows, style):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=num_rows)
    values = truth + rng.normal(scale=10 ** rng.uniform(-4, 1), size=num_rows)
    if style == "shifted":
        truth, values = truth + 1e6, values + 1e6
    if style == "counts":
        truth, values = np.floor(np.abs(truth) * 3), np.abs(values) * 3
    if style == "perfect":
        values = truth.copy()
    return truth, values


def _split(seed, truth, values, num_sites, **units):
    rng = np.random.default_rng(seed)
    owner = rng.choice(num_sites, size=len(truth), p=rng.dirichlet(np.full(num_sites, 0.4)))
    return [
        regression_stats(truth[owner == s], values[owner == s], **units) for s in range(num_sites)
    ]


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 120),
    num_sites=st.sampled_from([2, 4, 7]),
    style=st.sampled_from(["plain", "shifted", "counts", "perfect"]),
    scale=st.floats(1e-3, 1e3),
)
def test_pooled_metrics_equal_sklearn_on_concatenated_rows(seed, num_rows, num_sites, style, scale):
    truth, values = _draw(seed, num_rows, style)
    units = {"scale": scale, "shift": 1e6 + 0.5 if style == "shifted" else 0.0}
    pooled = Stats.total(_split(seed, truth, values, num_sites, **units))
    result = finalise_regression(pooled, **units)

    assert result.values.keys() | result.absent.keys() == set(metric_names("regression"))
    assert not result.values.keys() & result.absent.keys()
    expected = _reference_sklearn(truth, values)
    for name in result.values.keys() - BINNED:
        assert result.values[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9), name
    for name in BINNED:
        slack = 1e-12 * (1 + expected[name])
        assert abs(result.values[name] - expected[name]) <= result.bounds[name] + slack, name
    assert result.values["max_error"] >= expected["max_error"] * (1 - 1e-12)


def test_bounds_are_a_few_per_cent_on_realistic_errors():
    truth, values = _draw(4, 3000, "plain")
    result = finalise_regression(regression_stats(truth, values, scale=1.0), scale=1.0)
    expected = _reference_sklearn(truth, values)
    for name in BINNED:
        assert result.bounds[name] <= 0.037 * expected[name] * 1.04
    assert result.values["median_absolute_error"] == pytest.approx(
        expected["median_absolute_error"], rel=0.01
    )


def test_max_error_hides_the_single_row_within_its_bin():
    wide = {"scale": 1.0}
    results = [
        finalise_regression(regression_stats([0.0, 0.0], [0.0, e], **wide), **wide)
        for e in (1.001, 1.03)
    ]
    assert results[0].values["max_error"] == results[1].values["max_error"]


@pytest.mark.parametrize("error", [0.0, 1e-12, 1e9])
def test_error_outside_the_decades_stays_within_its_bound(error):
    stats = regression_stats([0.0, 1.0, 2.0], np.array([0.0, 1.0, 2.0]) + error, scale=1.0)
    result = finalise_regression(stats, scale=1.0)
    for name in BINNED:
        assert abs(result.values[name] - error) <= result.bounds[name] * (1 + 1e-12)


def test_large_mean_does_not_cancel_with_shift():
    rng = np.random.default_rng(0)
    truth = 1e9 + rng.normal(size=400)
    values = truth + rng.normal(scale=0.1, size=400)
    units = {"scale": 1.0, "shift": 1e9}
    result = finalise_regression(regression_stats(truth, values, **units), **units)
    assert result.values["r2"] == pytest.approx(sk.r2_score(truth, values), abs=1e-9)


def test_merge_is_associative_has_a_zero_and_ignores_order():
    truth, values = _draw(1, 90, "plain")
    parts = _split(1, truth, values, 4, scale=1.0)
    empty = regression_stats([], [], scale=1.0)
    whole = regression_stats(truth, values, scale=1.0)
    left = Stats.total(parts)
    right = parts[3].merge(parts[2].merge(parts[1].merge(parts[0])))
    for other in (left, right, Stats().merge(left), empty.merge(left)):
        for name in whole:
            np.testing.assert_allclose(other[name], whole[name], rtol=1e-12, atol=1e-12)
    assert all(empty[n].shape == whole[n].shape and not empty[n].any() for n in whole)


@pytest.mark.parametrize(
    ("truth", "values", "absent"),
    [
        ([0.0, 2.0], [1.0, 2.0], {"mape"}),
        ([-1.0, 2.0], [1.0, 2.0], {"rmsle"}),
        ([1.0, 2.0], [-3.0, 2.0], {"rmsle"}),
        ([3.3] * 7, [1.0] * 7, {"r2", "explained_variance"}),
        ([3.0], [1.0], {"r2", "explained_variance"}),
        ([], [], set(metric_names("regression"))),
    ],
)
def test_undefined_metric_is_absent_with_a_reason(truth, values, absent):
    units = {"scale": 1.0, "shift": 2.1}
    result = finalise_regression(regression_stats(truth, values, **units), **units)
    assert result.absent.keys() == absent
    assert all(result.absent.values())


def test_everything_is_absent_without_sites():
    assert not finalise_regression(Stats(), scale=1.0).values


def test_symmetric_error_of_two_zeros_is_zero():
    result = finalise_regression(regression_stats([0.0, 1.0], [0.0, -1.0], scale=1.0), scale=1.0)
    assert result.values["smape"] == 100.0


@pytest.mark.parametrize(
    ("truth", "values", "units", "error"),
    [
        ([1.0], [np.nan], {"scale": 1.0}, DivergedError),
        ([1.0], [1e200], {"scale": 1.0}, DivergedError),
        ([np.nan], [1.0], {"scale": 1.0}, DataError),
        ([1.0, 2.0], [1.0], {"scale": 1.0}, DataError),
        ([1.0], [1.0], {"scale": 0.0}, ConfigError),
        ([1.0], [1.0], {"scale": np.nan}, ConfigError),
        ([1.0], [1.0], {"scale": 1.0, "shift": np.inf}, ConfigError),
    ],
)
def test_invalid_input_is_refused(truth, values, units, error):
    with pytest.raises(error):
        regression_stats(np.array(truth), np.array(values), **units)


def test_summand_of_other_shape_is_refused():
    with pytest.raises(ReplyError, match="counts"):
        finalise_regression(Stats({"counts": np.array([1])}), scale=1.0)
