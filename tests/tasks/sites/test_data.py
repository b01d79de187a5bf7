"""A site's splits by name; one file is never two of them."""

from __future__ import annotations

import pytest

from fl_common.errors import DataError
from tasks.contract import DataSource
from tasks.sites.data import SiteSplits, require_distinct


def test_splits_are_found_by_name():
    data = SiteSplits("a", [1, 2, 3], [6], [], validation=[4, 5])
    assert [data.split(name) for name in ("train", "validation", "holdout")] == [
        [1, 2, 3],
        [4, 5],
        [6],
    ]
    assert (data.num_train, data.num_validation, data.num_holdout) == (3, 2, 1)


@pytest.mark.parametrize("name", ["validation", "test", "", "holdout "])
def test_no_split_stands_in_for_one_that_is_not_there(name):
    data = SiteSplits("a", [1, 2, 3], [6], [])
    assert data.num_validation == 0
    with pytest.raises(DataError, match="site 'a' has no"):
        data.split(name)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"holdout": "{0}/a.csv"}, "data.train and data.holdout"),
        ({"validation": "{0}/../{1}/a.csv"}, "data.train and data.validation"),
        (
            {"validation": "{0}/b.csv", "holdout": "{0}/link.csv"},
            "data.validation and data.holdout",
        ),
    ],
)
def test_the_same_file_as_two_splits_is_told(tmp_path, given, told):
    (tmp_path / "b.csv").touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "b.csv")
    files = {key: text.format(tmp_path, tmp_path.name) for key, text in given.items()}
    with pytest.raises(DataError, match=f"{told} are the same file"):
        require_distinct(DataSource("a", f"{tmp_path}/a.csv", **files))


def test_three_files_are_three_splits():
    require_distinct(DataSource("a", "a.csv", holdout="b.csv", validation="c.csv"))
    require_distinct(DataSource("a", "a.csv"))
