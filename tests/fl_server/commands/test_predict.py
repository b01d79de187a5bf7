"""``fedleague predict`` writes what each image task has to say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from fl_common.errors import ConfigError
from fl_server.commands.cli import app
from fl_server.commands.predict import PredictOptions, keyed, predict_file, table_bytes
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.launch import launch
from tasks.tabular.datasets import load_dataset


def _run(folder, usecase, *overrides):
    shared = [f"usecase={usecase}", "board.url=null", "rounds=1", "train.local_steps=2"]
    launch(compose_overrides([*shared, *overrides], folder))
    return folder


def _predict(run, data, out, *more):
    arguments = ["predict", "--run", str(run), "--data", str(data), "--out", str(out), *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / "pictures" / f"p{number}.png")
    return tmp_path / "pictures"


def test_a_class_for_each_picture_is_a_table(tmp_path, pictures):
    small = ("model.params.channels=[4]", "model.params.hidden=8")
    run = _run(tmp_path / "run", "digits", "data.num_sites=2", *small)
    assert "3 predictions" in _predict(run, pictures, tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv", dtype={"prediction": str})
    assert table["data_id"].tolist() == ["p0.png", "p1.png", "p2.png"]
    assert set(table["prediction"]) <= set("0123456789")


def test_a_class_for_each_pixel_is_a_folder_of_masks(tmp_path, pictures):
    run = _run(tmp_path / "run", "cell_masks", "model.params.channels=[4,8]")
    assert "3 masks" in _predict(run, pictures, tmp_path / "masks")
    for number in range(3):
        with Image.open(tmp_path / "masks" / f"p{number}.png") as mask:
            assert (mask.mode, mask.size) == ("P", (40, 30))


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


def test_a_threshold_is_a_score():
    with pytest.raises(ConfigError, match="expected a score from 0 to 1"):
        PredictOptions(threshold=25)


def test_a_run_writes_parquet_refuses_other_endings_and_options_that_do_not_suit(tmp_path):
    run = _run(tmp_path / "run", "breast_cancer", "data.num_sites=2")
    frame = load_dataset("breast_cancer").head(4).assign(patient=list("abcd"))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    out = tmp_path / "p.parquet"
    assert "4 predictions" in _predict(run, tmp_path / "rows.csv", out, "--id", "patient")
    table = pd.read_parquet(out)
    assert table["row"].tolist() == [1, 2, 3, 4]
    assert table["patient"].tolist() == list("abcd")
    with pytest.raises(ConfigError, match=r"'.xlsx' cannot be written; give --out .*p.csv or"):
        predict_file(run, tmp_path / "rows.csv", tmp_path / "p.xlsx", PredictOptions())
    with pytest.raises(ConfigError, match="finds no boxes"):
        predict_file(run, tmp_path / "rows.csv", out, PredictOptions(threshold=0.5))
