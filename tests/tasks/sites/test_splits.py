"""Three splits: disjoint, the holdout the same rows with and without validation, in proportion."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fl_common.errors import ConfigError, DataError
from tasks.contract import child_seed
from tasks.sites.splits import split_rows, split_three_ways, splitter

LABELS = np.repeat([0, 1, 2], [600, 300, 100])
KINDS = ("stratified", "sklearn")


def cut(kind="stratified", *, labels=LABELS, holdout=0.2, validation=0.25, seed=3):
    return split_three_ways(
        splitter(kind), len(labels), labels, holdout=holdout, validation=validation, seed=seed
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("validation", [0.1, 0.25, 0.5])
def test_no_row_is_in_two_splits_and_none_is_lost(kind, validation):
    drawn = cut(kind, validation=validation)
    assert np.array_equal(np.sort(np.concatenate(drawn)), np.arange(len(LABELS)))
    for positions in drawn:
        assert np.array_equal(positions, np.sort(positions))


@pytest.mark.parametrize("kind", KINDS)
def test_holdout_does_not_depend_on_the_validation_fraction(kind):
    before = splitter(kind)(len(LABELS), LABELS, 0.2, 3)
    without = cut(kind, validation=None)
    assert np.array_equal(without.train, before[0])
    assert np.array_equal(without.holdout, before[1])
    assert not len(without.validation)
    for validation in (0.1, 0.25, 0.5):
        assert np.array_equal(cut(kind, validation=validation).holdout, before[1])


def test_fraction_is_of_the_rows_that_are_left_in_every_class():
    drawn = cut()
    assert [len(rows) for rows in drawn] == [600, 200, 200]
    for rows in drawn:
        assert np.allclose(np.bincount(LABELS[rows]) / len(rows), [0.6, 0.3, 0.1])


def test_like_sklearn_splits_the_rest_as_scikit_learn_does():
    drawn = cut("sklearn")
    state = child_seed(3, "validation") % 2**32
    rest = splitter("sklearn")(len(LABELS), LABELS, 0.2, 3)[0]
    kept, chosen = train_test_split(
        rest, train_size=0.75, random_state=state, stratify=LABELS[rest]
    )
    assert np.array_equal(drawn.train, np.sort(kept))
    assert np.array_equal(drawn.validation, np.sort(chosen))


def test_validation_rows_are_drawn_independently_of_the_holdout():
    """The same seed for both would draw rows at the same places again."""
    size = 1000
    drawn = split_three_ways(split_rows, size, None, holdout=0.5, validation=0.5, seed=1)
    again = split_rows(len(drawn.train) + len(drawn.validation), None, 0.5, 1)[1]
    rest = np.sort(np.concatenate([drawn.train, drawn.validation]))
    assert not np.array_equal(rest[again], drawn.validation)


def test_a_split_with_a_file_of_its_own_takes_no_row():
    drawn = cut(holdout=None)
    assert len(drawn.holdout) == 0
    assert (len(drawn.train), len(drawn.validation)) == (750, 250)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_fraction_outside_0_to_1_is_refused_by_its_own_key(fraction):
    with pytest.raises(ConfigError, match=r"data\.validation_fraction is"):
        cut(validation=fraction)
    with pytest.raises(ConfigError, match=r"data\.holdout_fraction is"):
        cut(holdout=fraction)


def test_too_few_rows_for_three_splits_are_told():
    with pytest.raises(DataError, match="validation_fraction needs at least 2"):
        cut(labels=np.array([0, 0]), holdout=0.5)
