from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from fl_server.config.usecase import ScoreRule
from fl_server.leaderboard.ranking import rank
from tasks.scores import DIRECTIONS

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    score: float | None
    submitted_at: datetime = START


scores = st.none() | st.floats() | st.sampled_from([0.0, -0.0, 0.5, -0.5])
rows = st.lists(
    st.builds(Row, scores, st.integers(0, 3).map(lambda days: START + timedelta(days))), max_size=12
)
rules = st.sampled_from([ScoreRule("s", direction) for direction in DIRECTIONS])


def places(direction, *values):
    return [
        (item.row.score, item.rank)
        for item in rank([Row(value) for value in values], ScoreRule("s", direction))
    ]


def test_each_direction_orders_its_own_way():
    assert places("max", 1.0, 3.0, 2.0) == [(3.0, 1), (2.0, 2), (1.0, 3)]
    assert places("min", 1.0, 3.0, 2.0) == [(1.0, 1), (2.0, 2), (3.0, 3)]
    assert places("zero", -9.0, 0.1, -0.05) == [(-0.05, 1), (0.1, 2), (-9.0, 3)]


def test_ties_share_a_place_and_skip_the_next():
    assert [place for _, place in places("max", 0.5, 0.7, 0.7)] == [1, 1, 3]


def test_opposite_biases_tie():
    assert [place for _, place in places("zero", 0.1, -0.1)] == [1, 1]


def test_absent_scores_come_last_without_a_place():
    assert places("min", None, 4.0, math.inf) == [(4.0, 1), (None, None), (math.inf, None)]


def test_earlier_submission_is_first_among_equals():
    late, early = Row(0.5, START + timedelta(1)), Row(0.5, START)
    assert [item.row for item in rank([late, early], ScoreRule("s"))] == [early, late]


@given(rows, rules)
def test_place_is_one_more_than_the_number_of_better_rows(entries, rule):
    ranked = rank(entries, rule)
    assert sorted(map(id, entries)) == sorted(id(item.row) for item in ranked)
    for item in ranked:
        mine = rule.sort_key(item.row.score)
        better = sum(rule.sort_key(other.score) < mine for other in entries)
        assert item.rank == (better + 1 if math.isfinite(mine) else None)


@given(rows, rules)
def test_order_is_by_place_then_time(entries, rule):
    keys = [(item.rank or math.inf, item.row.submitted_at) for item in rank(entries, rule)]
    assert keys == sorted(keys)
