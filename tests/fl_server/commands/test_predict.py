"""``fedleague predict`` writes what each image task has to say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from fl_common.errors import ConfigError
from fl_server.commands.cli import app
from fl_server.commands.predict import PredictOptions, predict_file
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
