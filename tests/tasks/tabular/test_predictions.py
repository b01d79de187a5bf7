"""Predictions say whose they are, and are the file that its ending says."""

from __future__ import annotations

import pandas as pd
import pytest

from fl_common.errors import ConfigError
from tasks.tabular.predictions import keyed, table_bytes


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("patient,age,x\n007,50,1.5\n008,61,2.5\n")
    return path


def test_rows_carry_their_number_and_a_column_of_their_own(rows):
    table = pd.DataFrame({"prediction": ["a", "b"]})
    assert keyed(table, rows, None)["row"].tolist() == [1, 2]
    found = keyed(table, rows, "patient")
    assert list(found) == ["row", "patient", "prediction"]
    assert found["patient"].tolist() == ["007", "008"]
    with pytest.raises(ConfigError, match="no such column; did you mean 'patient'"):
        keyed(table, rows, "patiant")
    with pytest.raises(ConfigError, match="is called like that; rename it"):
        keyed(table.rename(columns={"prediction": "age"}), rows, "age")


def test_pictures_keep_the_key_of_their_task(rows):
    table = pd.DataFrame({"data_id": ["p0"], "prediction": ["a"]})
    assert keyed(table, rows, None) is table


def test_a_table_is_parquet_or_csv_by_its_ending(tmp_path):
    table = pd.DataFrame({"row": [1, 2], "prediction": ["a", "b"]})
    for name, read in (("p.parquet", pd.read_parquet), ("p.csv", pd.read_csv)):
        (tmp_path / name).write_bytes(table_bytes(table, tmp_path / name))
        pd.testing.assert_frame_equal(read(tmp_path / name), table, check_dtype=False)
    assert (tmp_path / "p.parquet").read_bytes()[:4] == b"PAR1"
