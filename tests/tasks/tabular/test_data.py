import datetime

import numpy as np
import pandas as pd
import pytest

import tasks.tabular.datasets
from fl_common.errors import ConfigError, DataError, SchemaError
from tasks.contract import DataSource, Partition
from tasks.registry import load_task
from tasks.sites.splits import split_rows


def classification(**keys):
    return load_task("tabular_classification", {"target": "y", "classes": ["no", "yes"], **keys})


def regression(**keys):
    return load_task("tabular_regression", {"target": "y", **keys})


GOOD = "a,b,y\n1,2,no\n3,4,yes\n5,6,no\n7,8,yes\n"

CSV_ERRORS = {
    "empty": ("", DataError, r"is empty; expected a header"),
    "blank": ("\n \n", DataError, r"is empty"),
    "header only": ("a,b,y\n", DataError, r"has a header but no rows; add rows"),
    "binary": (b"\x89PNG\0\0", DataError, r"is a binary file.*export it as CSV"),
    "late binary": (GOOD.encode() + b"\xff\xfe,1,no\n", DataError, r"not UTF-8 text \(byte 0xff\)"),
    "latin-1": ("a,b,y\n1,2,n\xe4\n".encode("latin-1"), DataError, r"save it as UTF-8"),
    "semicolons": ("a;b;y\n1;2;no\n", DataError, r"row 1: columns are separated by ';'; use com"),
    "tabs": ("a\tb\ty\n1\t2\tno\n", DataError, r"row 1: columns are separated by tabs; use commas"),
    "long first row": ("a,b,y\n1,2,3,no\n", DataError, r"row 2 has 4 values, expected 3"),
    "long later row": (GOOD + "1,2,3,no\n", DataError, r"row 6 has 4 values, expected 3 as in the"),
    "short row": ("a,b,y\n1,2,no\n\n3,4\n5,6,yes\n", DataError, r"row 4 has 2 values, expected 3"),
    "open quote": (GOOD + '1,2,"no\n', DataError, r"row 6|not a readable CSV file"),
    "no target": ("a,b,Y\n1,2,no\n", SchemaError, r"row 1: target column 'y' is missing"),
    "near target": ("a,yy\n1,no\n", SchemaError, r"did you mean 'yy'"),
    "twice": ("a,a,y\n1,2,no\n", SchemaError, r"row 1: column 'a' stands twice; rename"),
    "unknown class": (
        "a,y\n1,no\n2,maybe\n",
        SchemaError,
        r"row 3, column 'y': class 'maybe' is not one of 'no', 'yes'; add it to usecase.classes",
    ),
    "class after blank and quoted lines": (
        'a,n,y\n\n1,"two\nlines",no\n2,x,maybe\n',
        SchemaError,
        r"row 5, column 'y': class 'maybe'",
    ),
    "no class": ("a,y\n1,no\n2,?\n", DataError, r"row 3, column 'y': the target is missing; fill"),
    "text": (
        "a,y\n1,no\nx y,yes\n",
        DataError,
        r"row 3, column 'a': 'x y' is not a number; add 'a' to usecase.categorical or correct",
    ),
    "infinite": ("a,y\n1,no\n-inf,yes\n", DataError, r"row 3, column 'a': -inf is infinite"),
    "huge": ("a,y\n1,no\n1e200,yes\n", DataError, r"row 3, column 'a': 1e\+200 is infinite or bey"),
    "one row": ("a,y\n1,no\n", DataError, r"site 'north' has one row; it needs at least 2"),
}


@pytest.mark.parametrize("case", CSV_ERRORS)
def test_csv_error_names_place_and_cure(tmp_path, case):
    content, kind, message = CSV_ERRORS[case]
    path = tmp_path / "site.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    task = classification(exclude=["n"])
    with pytest.raises(kind, match=message) as error:
        task.read(DataSource("north", str(path)), 0)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,y\n1,2.5\n2,high\n", r"row 3, column 'y': 'high' is not a number; the target of a reg"),
        ("a,y\n1,2.5\n2,\n3,1\n", r"row 3, column 'y': the target is missing"),
        ("a,y\n1,2.5\n2,inf\n3,1\n", r"row 3, column 'y': inf is infinite"),
    ],
)
def test_regression_target_error_names_row(tmp_path, content, message):
    path = tmp_path / "site.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        regression().read(DataSource("north", str(path)), 0)


def test_path_errors(tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text(GOOD)
    broken = tmp_path / "t.parquet"
    broken.write_text("no parquet")
    nothing = tmp_path / "n.parquet"
    nothing.touch()
    for path, message in (
        (tmp_path / "gone.csv", "gone.csv does not exist; correct the path"),
        (tmp_path, "is a directory"),
        (other, "has the ending '.txt'; expected .csv or .parquet"),
        (broken, "is not a readable Parquet file"),
        (nothing, "is empty"),
    ):
        with pytest.raises(DataError, match=message):
            classification().read(DataSource("north", str(path)), 0)


def test_parquet_errors_and_types(tmp_path):
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame(
        {
            "flag": [True, False, True, False],
            "nullable": pd.array([1, None, 3, 4], dtype="Int64"),
            "kind": pd.Categorical(["u", "v", "u", None]),
            "y": [True, False, True, False],
        }
    )
    frame.to_parquet(path)
    task = classification(classes=["0", "1"], categorical=["kind"])
    train = task.read(DataSource("s", str(path), holdout=str(path)), 0).train
    assert train.numeric_names == ("flag", "nullable")
    np.testing.assert_array_equal(train.numeric[:, 0], [1, 0, 1, 0])
    np.testing.assert_array_equal(train.numeric[:, 1], [1, np.nan, 3, 4])
    assert train.levels == (("u", "v"),)
    np.testing.assert_array_equal(train.codes[:, 0], [0, 1, 0, -1])
    np.testing.assert_array_equal(train.target, [1, 0, 1, 0])
    frame.assign(day=datetime.datetime(2020, 1, 1)).to_parquet(path)
    with pytest.raises(DataError, match=r"column 'day' holds dates; add it to usecase.exclude"):
        task.read(DataSource("s", str(path)), 0)
    frame.assign(day=[[1], [2], [3], [4]]).to_parquet(path)
    with pytest.raises(DataError, match="column 'day' holds nested values"):
        task.read(DataSource("s", str(path)), 0)
    frame.assign(x=["1", "2", "?", "z"]).to_parquet(path)
    with pytest.raises(DataError, match="row 4, column 'x': 'z' is not a number"):
        task.read(DataSource("s", str(path)), 0)


def test_csv_and_parquet_of_one_table_give_equal_rows(tmp_path):
    frame = pd.DataFrame(
        {"a": [0.1, np.nan, 3], "k": ["1", "2", "1"], "b": [True, False, True], "y": [1, 0, 1]}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.assign(k=[1.0, 2.0, 1.0]).to_parquet(tmp_path / "t.parquet")
    task = classification(classes=[0, 1], categorical=["k", "b"])
    one, other = (
        task.read(DataSource("s", str(p), holdout=str(p)), 0).train
        for p in (tmp_path / "t.csv", tmp_path / "t.parquet")
    )
    assert one.levels == other.levels == (("0", "1"), ("1", "2"))
    for name in ("numeric", "codes", "target"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_csv_details_bom_spaces_sentinels_and_leading_zeros(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffa, zip ,y\n-999, 007, yes\n2, 7, no\n".encode())
    task = classification(categorical=["zip"], missing_values=[-999])
    rows = task.read(DataSource("s", str(path), holdout=str(path)), 0).train
    np.testing.assert_array_equal(rows.numeric[:, 0], [np.nan, 2])
    assert rows.levels == (("007", "7"),)


def test_a_class_may_be_called_like_a_missing_value(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,NA\n2,EU\n")
    task = classification(classes=["EU", "NA"])
    rows = task.read(DataSource("s", str(path), holdout=str(path)), 0).train
    np.testing.assert_array_equal(rows.target, [1, 0])


def test_holdout_file_with_other_columns(tmp_path):
    train, holdout = tmp_path / "train.csv", tmp_path / "hold.csv"
    train.write_text(GOOD)
    holdout.write_text("a,c,y\n1,2,no\n")
    with pytest.raises(SchemaError, match=r"hold.csv, row 1: column 'b' is missing, but .*train"):
        classification().read(DataSource("s", str(train), holdout=str(holdout)), 0)
    holdout.write_text("a,b,y\n")
    with pytest.raises(DataError, match=r"hold.csv has a header but no rows"):
        classification().read(DataSource("s", str(train), holdout=str(holdout)), 0)


def test_notes_tell_the_operator(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,y\n,1,u,no\n,1,w,no\n,1,u,no\n")
    task = classification(categorical=["c"], categories={"c": ["u", "v"]})
    notes = " | ".join(task.read(DataSource("s", str(path), holdout=str(path)), 0).notes)
    for part in (
        "'a' has no value",
        "'b' is constant",
        "undeclared values",
        "one class only: 'no'",
    ):
        assert part in notes


def test_split_is_stratified_deterministic_and_complete():
    labels = np.repeat([0, 1, 2], [50, 30, 2])
    kept, held = split_rows(82, labels, 0.2, 5)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(82))
    assert len(held) == 16
    counts = np.bincount(labels[held], minlength=3)
    assert counts[0] in (9, 10)
    assert counts[1] in (5, 6)
    assert np.bincount(labels[kept], minlength=3).min() >= 1
    np.testing.assert_array_equal(split_rows(82, labels, 0.2, 5)[1], held)
    assert not np.array_equal(split_rows(82, labels, 0.2, 6)[1], held)


@pytest.mark.parametrize("labels", [None, np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_split_leaves_neither_side_empty(labels, fraction):
    kept, held = split_rows(4, labels, fraction, 0)
    assert len(kept) >= 1
    assert len(held) >= 1
    assert len(kept) + len(held) == 4


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_holdout_fraction_out_of_range(tmp_path, fraction):
    path = tmp_path / "t.csv"
    path.write_text(GOOD)
    with pytest.raises(ConfigError, match="holdout_fraction"):
        classification().read(DataSource("s", str(path), holdout_fraction=fraction), 0)


def test_split_seed_of_the_source_wins(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame({"a": range(40), "y": ["no", "yes"] * 20}).to_csv(path, index=False)
    task = classification()
    pinned = [task.read(DataSource("s", str(path), split_seed=3), seed) for seed in (0, 1)]
    free = task.read(DataSource("s", str(path)), 1)
    np.testing.assert_array_equal(pinned[0].holdout.numeric, pinned[1].holdout.numeric)
    assert not np.array_equal(pinned[0].holdout.numeric, free.holdout.numeric)


def test_partition_cuts_a_named_table_by_column(monkeypatch):
    frame = pd.DataFrame({"a": range(8), "site": [10, 9] * 4, "y": ["no", "no", "yes", "yes"] * 2})
    monkeypatch.setattr(tasks.tabular.datasets, "load_dataset", lambda name: frame)
    task = classification(exclude=["site"])
    for index, first in ((0, 1), (1, 0)):  # 9 before 10
        cut = Partition("column", 2, index, column="site")
        data = task.read(DataSource("s", f"dataset:t{index}", partition=cut), 0)
        values = np.sort(np.concatenate([data.train.numeric[:, 0], data.holdout.numeric[:, 0]]))
        np.testing.assert_array_equal(values, np.arange(first, 8, 2))
    with pytest.raises(SchemaError, match=r"column 'sit' of partition.column is missing.*'site'"):
        task.read(
            DataSource("s", "dataset:t", partition=Partition("column", 2, 0, column="sit")), 0
        )


def test_subgroup_columns_need_not_be_features(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,sex,age,y\n1,f,30,no\n2,m,,yes\n3,F,60,no\n4,f,61,yes\n")
    task = classification(
        columns=["a"],
        subgroups={
            "women": {"column": "sex", "values": ["f"]},
            "sixty": {"column": "age", "min": 60, "max": 60},
            "ill": {"class": "yes"},
        },
    )
    rows = task.read(DataSource("s", str(path), holdout=str(path)), 0).holdout
    assert rows.columns == {"a"}
    np.testing.assert_array_equal(rows.groups.T, [[1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]])
    path.write_text("a,age,y\n1,old,no\n2,3,yes\n")
    with pytest.raises(SchemaError, match=r"row 1: column 'sex' of usecase.subgroups.women is"):
        task.read(DataSource("s", str(path)), 0)
    path.write_text("a,sex,age,y\n1,f,old,no\n2,f,3,yes\n")
    with pytest.raises(DataError, match=r"row 2, column 'age': 'old' is not .*subgroups.sixty"):
        task.read(DataSource("s", str(path)), 0)


def test_a_categorical_column_of_unique_texts_is_told_to_the_site(tmp_path):
    frame = pd.DataFrame({"k": [f"v{i}" for i in range(10)], "m": list("xxxxxyyyyy")})
    frame.assign(x=range(10), y=["a", "b"] * 5).to_csv(tmp_path / "t.csv", index=False)
    keys = {"target": "y", "classes": ["a", "b"], "categorical": ["k", "m"]}
    task = load_task("tabular_classification", keys)
    notes = task.read(DataSource("a", str(tmp_path / "t.csv")), 0).notes
    (note,) = [note for note in notes if "another value in every row" in note]
    assert note.startswith("column 'k'")
    assert "usecase.exclude=[k]" in note
