"""``fedleague predict`` writes boxes as COCO."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fl_common.errors import DataError
from fl_server.commands.cli import app
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.launch import launch
from tests.tasks.object_detection.shapes import write_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("shapes"), count=12)


def _run(folder, shapes, *overrides):
    shared = [
        "usecase=object_detection",
        "usecase.classes=[square,disc]",
        "usecase.image_size=64",
        "model=fcos",
        "model.params.backbone=tiny",
        f"data.sites=[{shapes}]",
        "train.local_steps=2",
        "rounds=1",
        "board.url=null",
    ]
    launch(compose_overrides([*shared, *overrides], folder))
    return folder


def _predict(run, data, out):
    arguments = ["predict", "--run", str(run), "--data", str(data), "--out", str(out)]
    return CliRunner().invoke(app, arguments)


def test_boxes_are_a_coco_file(tmp_path, shapes):
    run = _run(tmp_path / "run", shapes)
    result = _predict(run, shapes, tmp_path / "found.json")
    assert result.exit_code == 0, result.output
    assert "12 pictures" in result.output
    assert "read: the train pictures" in " ".join(result.output.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["name"] for row in found["categories"]] == ["square", "disc"]
    assert len(found["images"]) == 12
    counts = json.loads((run / "result.json").read_text())["counts"]
    assert counts["images"]["total"] == 2
    assert set(counts["boxes"]) == {"square", "disc"}


@pytest.mark.parametrize("on_invalid", ["refuse", "drop"])
def test_bad_picture_is_named_and_dropped_where_the_use_case_says_so(tmp_path, shapes, on_invalid):
    run = _run(tmp_path / "run", shapes, f"usecase.on_invalid={on_invalid}")
    pictures = write_shapes(tmp_path / "new", count=4).parent / "images"
    (pictures / "p002.png").write_bytes(b"x")
    out = tmp_path / "found.json"
    result = _predict(run, pictures, out)
    if on_invalid == "refuse":
        assert isinstance(result.exception, DataError)
        assert "p002.png" in str(result.exception)
        assert not out.exists()
        return
    assert result.exit_code == 0, result.output
    assert "left out: 1 pictures" in " ".join(result.output.split())
    assert len(json.loads(out.read_text())["images"]) == 3
