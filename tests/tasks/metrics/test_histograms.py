"""The intervals proven from coarse bins contain the exact value, whatever the order within."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from tasks.metrics.histograms import (
    average_precision,
    error_edges,
    error_histogram,
    largest_error,
    median_error,
    num_score_bins,
    roc_auc,
    score_edges,
)

SLACK = 1e-12


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(2, 60),
    num_bins=st.integers(1, 6),
    num_distinct=st.sampled_from([3, 12, 10**6]),
    order=st.sampled_from(["random", "best", "worst"]),
)
def test_curve_bounds_hold_for_any_order_within_coarse_bins(
    seed, num_rows, num_bins, num_distinct, order
):
    rng = np.random.default_rng(seed)
    truth = np.append(rng.integers(0, 2, num_rows), [0, 1])
    scores = rng.integers(0, num_distinct, num_rows + 2) / num_distinct
    bins = np.minimum((scores * num_bins).astype(int), num_bins - 1)
    if order != "random":
        scores = bins + truth * (0.5 if order == "best" else -0.5)
    # One empty bin at each end: those are reserved for scores of exactly 0 and 1.
    histogram = np.stack(
        [np.bincount(bins[truth == k] + 1, minlength=num_bins + 2) for k in (0, 1)]
    )
    area, area_bound = roc_auc(histogram)
    assert abs(area - sk.roc_auc_score(truth, scores)) <= area_bound + SLACK
    precision, bound = average_precision(histogram)
    assert abs(precision - sk.average_precision_score(truth, scores)) <= bound + SLACK


@settings(max_examples=100, deadline=None)
@given(
    errors=st.lists(st.floats(0, 1e9) | st.just(0.0), min_size=1, max_size=30),
    scale=st.floats(1e-3, 1e3),
)
def test_error_bounds_hold_for_any_errors(errors, scale):
    histogram = error_histogram(np.array(errors), scale)
    ceiling = float(np.sqrt(np.square(errors).sum()))
    for read, exact in ((median_error, np.median(errors)), (largest_error, np.max(errors))):
        value, bound = read(histogram, scale, ceiling)
        assert abs(value - exact) <= bound + SLACK * (1 + exact)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100, 1000])
def test_score_edges_are_ascending_and_reserve_both_ends(num_classes):
    edges = score_edges(num_classes)
    assert len(edges) == num_score_bins(num_classes) - 1
    assert (np.diff(edges) >= 0).all()
    bins = edges.searchsorted([0.0, 5e-324, 1 - 1e-16, 1.0], "right")
    assert bins[0] == 0
    assert bins[1] == 1
    assert bins[2] < bins[3] == len(edges)


def test_error_edges_follow_the_scale():
    np.testing.assert_allclose(error_edges(5.0)[1:], 5.0 * error_edges(1.0)[1:], rtol=1e-12)
    assert error_edges(5.0)[1] == pytest.approx(5e-6)
    assert error_edges(5.0)[-1] == pytest.approx(5e6)
