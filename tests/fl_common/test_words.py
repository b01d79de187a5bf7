"""Near matches, lists for messages, one text for equal values."""

from __future__ import annotations

import pytest

from fl_common.words import canonical, nearest, quoted, suggest


def test_suggest_names_the_nearest_option():
    assert suggest("acuracy", ["accuracy", "f1"]) == "; did you mean 'accuracy'?"


def test_suggest_lists_the_options_where_none_is_near():
    assert suggest("xyz", ["accuracy", "f1"]) == "; choose from 'accuracy', 'f1'"
    assert suggest("xyz", {"a": 1}) == "; choose from 'a'"


def test_suggest_is_silent_where_there_is_nothing_to_choose():
    assert suggest("xyz", []) == ""


def test_nearest_orders_by_likeness_and_keeps_what_is_far_out():
    assert nearest("recal", ["recall_a", "recall", "auc"], most=2) == ["recall", "recall_a"]
    assert nearest("recal", ["auc"]) == []


def test_quoted_cuts_long_lists():
    assert quoted(["a", "b", "c"], limit=2) == "'a', 'b' and 1 more"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), (True, "1"), ("1.0", "1"), ("FALSE", "0"), (" a ", "a"), (1.5, "1.5")],
)
def test_canonical_is_one_text_for_values_that_mean_the_same(value, text):
    assert canonical(value) == text
