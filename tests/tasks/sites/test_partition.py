from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_common.errors import ConfigError
from tasks.contract import Partition
from tasks.sites import partition as module
from tasks.sites.partition import MIN_ROWS, partition_rows

LABELS = np.repeat(np.array(["a", "b", "c"], dtype=object), (600, 300, 100))


def _cut(labels, column, wanted: Partition) -> list[np.ndarray]:
    sites = range(wanted.num_sites)
    return [partition_rows(labels, column, replace(wanted, index=i)) for i in sites]


@st.composite
def _requests(draw):
    num_sites = draw(st.integers(1, 12))
    num_rows = draw(st.integers(MIN_ROWS * num_sites, 120))
    labels = draw(st.lists(st.integers(0, 3), min_size=num_rows, max_size=num_rows))
    kind = draw(st.sampled_from(["iid", "dirichlet", "size"]))
    alpha = draw(st.floats(1e-4, 1e4))
    return np.array(labels), Partition(kind, num_sites, 0, draw(st.integers(0, 2**40)), alpha)


@settings(deadline=None, max_examples=150)
@given(_requests())
def test_parts_are_disjoint_complete_and_large_enough(request_):
    labels, wanted = request_
    parts = _cut(labels, None, wanted)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) >= MIN_ROWS
        assert (np.diff(part) > 0).all()


@settings(deadline=None, max_examples=50)
@given(_requests())
def test_every_caller_gets_the_same_cut(request_):
    labels, wanted = request_
    first = _cut(labels, None, wanted)
    module._assignment.cache_clear()
    again = _cut(labels.copy(), None, wanted)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@given(st.integers(2, 400), st.integers(0, 99))
def test_iid_sites_are_equal_to_within_one_row(num_rows, seed):
    num_sites = max(1, num_rows // 7)
    sizes = [len(p) for p in _cut(np.zeros(num_rows), None, Partition("iid", num_sites, 0, seed))]
    assert max(sizes) - min(sizes) <= 1


def test_iid_is_shuffled_and_the_seed_decides():
    cut = _cut(LABELS, None, Partition("iid", 4, 0, seed=1))
    other = _cut(LABELS, None, Partition("iid", 4, 0, seed=2))
    assert all(set(LABELS[part]) == {"a", "b", "c"} for part in cut)
    assert not np.array_equal(cut[0], other[0])


def _skew(alpha: float) -> float:
    """Mean total variation distance between a site's classes and those of all rows."""
    everywhere = np.array([0.6, 0.3, 0.1])
    distances = []
    for seed in range(10):
        for part in _cut(LABELS, None, Partition("dirichlet", 5, 0, seed, alpha)):
            shares = np.array([(LABELS[part] == label).mean() for label in "abc"])
            distances.append(np.abs(shares - everywhere).sum() / 2)
    return float(np.mean(distances))


def test_dirichlet_skews_labels_more_for_smaller_alpha():
    nearly_one_class, middle, nearly_iid = _skew(0.05), _skew(1.0), _skew(1000.0)
    assert nearly_one_class > 0.35 > middle > 0.1 > 0.05 > nearly_iid


def test_dirichlet_bins_a_numeric_target():
    target = np.random.default_rng(0).normal(size=2000)
    parts = _cut(target, None, Partition("dirichlet", 4, 0, alpha=0.1))
    means = [target[part].mean() for part in parts]
    assert np.ptp(means) > 0.5


def test_dirichlet_ignores_how_labels_are_written():
    numbers = np.unique(LABELS, return_inverse=True)[1]
    wanted = Partition("dirichlet", 5, 0, alpha=0.3)
    pairs = zip(_cut(LABELS, None, wanted), _cut(numbers, None, wanted), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def test_size_keeps_classes_mixed_and_sizes_unequal():
    parts = _cut(LABELS, None, Partition("size", 5, 0, alpha=0.5))
    sizes = np.array([len(part) for part in parts])
    assert sizes.max() > 3 * sizes.min()
    large = parts[int(sizes.argmax())]
    assert abs((LABELS[large] == "a").mean() - 0.6) < 0.1


@pytest.mark.parametrize(
    "column",
    [
        np.array(["north", "east", "south"] * 10, dtype=object),
        np.array([10, 9, 100] * 10),
    ],
)
def test_column_takes_values_in_sorted_order(column):
    values = sorted(set(column.tolist()))
    parts = _cut(np.zeros(30), column, Partition("column", 3, 0, column="site"))
    assert [set(column[part].tolist()) for part in parts] == [{value} for value in values]


def test_rows_cannot_be_changed_by_a_caller():
    rows = partition_rows(LABELS, None, Partition("iid", 4, 0))
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 7


def test_changed_data_gives_a_changed_cut():
    labels = LABELS.copy()
    wanted = Partition("dirichlet", 5, 0, alpha=0.1)
    before = partition_rows(labels, None, wanted)
    labels[:] = labels[::-1].copy()
    assert not np.array_equal(before, partition_rows(labels, None, wanted))


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "size"])
def test_a_thousand_sites_are_cut_in_a_moment(kind):
    labels = np.tile(LABELS, 20)
    started = time.perf_counter()
    parts = _cut(labels, None, Partition(kind, 1000, 0, alpha=0.1))
    assert time.perf_counter() - started < 8
    assert sum(map(len, parts)) == len(labels)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Partition("idd", 2, 0), "did you mean 'iid'"),
        (Partition("zzzz", 2, 0), "choose from 'iid', 'dirichlet', 'size', 'column'"),
        (Partition("iid", 2, 2), "index 2 of 2 sites"),
        (Partition("iid", 6, 0), "set data.num_sites to at most 5"),
        (Partition("column", 2, 0), "needs partition.column=NAME"),
    ],
)
def test_impossible_request_says_what_to_change(wanted, message):
    with pytest.raises(ConfigError, match=message):
        partition_rows(np.zeros(10), None, wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": -1}, "index must be a whole number, at least 0, got -1"),
        ({"num_sites": 0}, "num_sites must be a whole number, at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be a positive number, got 0.0"),
        ({"alpha": float("nan")}, "alpha must be a positive number, got nan"),
        ({"alpha": float("inf")}, "alpha must be a positive number, got inf"),
    ],
)
def test_impossible_values_are_refused_by_the_type(changes, message):
    with pytest.raises(ConfigError, match=message):
        Partition(**{"kind": "size", "num_sites": 2, "index": 0, **changes})


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a"] * 5 + ["b"] * 5, r"has 2 distinct values.*set data\.num_sites=2"),
        (["a"] * 5 + ["b"] * 4 + ["c"], "'c' has fewer than 2 rows"),
        (["a"] * 5 + ["b"] * 4 + [None], "missing values"),
    ],
)
def test_column_that_does_not_fit_is_named(column, message):
    values = np.array(column, dtype=object)
    with pytest.raises(ConfigError, match=message):
        partition_rows(np.zeros(10), values, Partition("column", 3, 0, column="site"))
