import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fl_common.errors import ReplyError
from tasks.stats import COUNT, SUM, Stats

counts = arrays(np.int64, 3, elements=st.integers(0, 2**40))
sums = arrays(np.float64, (2, 2), elements=st.integers(-(2**20), 2**20).map(float))


@st.composite
def stats(draw):
    parts = {"n": counts, "sum": sums, "extra/a": counts, "extra/b": sums}
    names = draw(st.sets(st.sampled_from(sorted(parts))))
    return Stats({name: draw(parts[name]) for name in sorted(names)})


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name])


@given(stats())
def test_merge_with_zero_changes_nothing(a):
    assert_equal(a.merge(Stats()), a)
    assert_equal(Stats().merge(a), a)


@given(stats(), stats(), stats())
def test_merge_is_associative_and_commutative(a, b, c):
    assert_equal(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_equal(a.merge(b), b.merge(a))


@given(st.lists(stats(), max_size=5))
def test_total_equals_repeated_merge_and_leaves_parts_alone(parts):
    before = [{name: array.copy() for name, array in part.items()} for part in parts]
    expected = Stats()
    for part in parts:
        expected = expected.merge(part)
    assert_equal(Stats.total(iter(parts)), expected)
    for part, copy in zip(parts, before, strict=True):
        assert_equal(part, Stats(copy))


@given(stats(), stats())
def test_scope_is_a_morphism_and_undoes_scoped(a, b):
    assert_equal(a.under("x/y").below("x/y"), a)
    assert_equal(a.merge(b).under("s"), a.under("s").merge(b.under("s")))
    assert not len(a.under("xy").below("x"))


def test_arrays_become_counts_or_sums():
    stats = Stats({"n": np.int32(3), "flag": np.array([True]), "sum": np.float32(0.5)})
    assert [stats[name].dtype for name in ("n", "flag", "sum")] == [COUNT, COUNT, SUM]


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([1j]), np.array([None])])
def test_other_dtypes_are_refused(value):
    with pytest.raises(ReplyError, match="only counts and sums may leave"):
        Stats({"x": value})


@pytest.mark.parametrize("other", [np.zeros(2, np.int64), np.zeros(3)])
def test_merge_refuses_another_shape_or_dtype(other):
    with pytest.raises(ReplyError, match=r"summand 'n' .* expected int64\[3\]"):
        Stats({"n": np.zeros(3, np.int64)}).merge(Stats({"n": other}))
