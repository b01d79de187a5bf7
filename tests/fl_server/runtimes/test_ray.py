import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_server import cli
from tests.tasks.image_classification.conftest import Site

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"
)


def run_server(folder: Path, *overrides: str) -> tuple[dict, subprocess.CompletedProcess]:
    command = [sys.executable, "-m", "fl_server.cli", *overrides, f"hydra.run.dir={folder}"]
    done = subprocess.run(
        [*command, "board.url=null"],
        cwd=folder.parent,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "result.json").read_text()), done


def scores(result: dict) -> list[float]:
    return [round_["score"] for round_ in result["rounds"]]


@needs_ray
@pytest.mark.slow
def test_ray_gives_the_scores_of_the_in_process_simulation_and_is_quiet(tmp_path):
    job = ["usecase=breast_cancer", "rounds=2"]
    expected, _ = run_server(tmp_path / "simulation", *job)
    result, done = run_server(tmp_path / "ray", "runtime=ray", *job)
    assert scores(result) == pytest.approx(scores(expected), abs=1e-6)
    assert done.stderr == ""


@needs_ray
@pytest.mark.slow
def test_ray_reads_folders_of_pictures_and_gives_the_same_scores(tmp_path):
    for name in ("a", "b"):
        Site(tmp_path / name).folder()
    (tmp_path / "a" / "folder" / "disc" / "cut.png").write_bytes(b"")
    job = [
        "usecase=image_classification",
        "usecase.classes=[disc,ring,cross]",
        "usecase.image_size=16",
        "model=simple_cnn",
        "model.params.channels=[4,8]",
        "data.sites=[{name: a, train: a/folder, on_invalid: drop},{name: b, train: b/folder}]",
        "train.lr=0.01",
        "rounds=2",
    ]
    expected, _ = run_server(tmp_path / "simulation", *job)
    result, done = run_server(tmp_path / "ray", "runtime=ray", *job)
    assert scores(result) == pytest.approx(scores(expected), abs=1e-6)
    assert len(set(scores(result))) > 1
    assert "a: left out: 1 images are empty (" in done.stdout
    assert done.stderr == ""


def test_missing_ray_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(cli, "_failures", [])
    monkeypatch.setattr(sys, "argv", ["fl-server", "runtime=ray", "board.url=null"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error == "fl-server: runtime=ray needs Ray: pip install 'fedleague[ray]'\n"


@needs_ray
def test_more_cores_than_the_machine_has_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cli, "_failures", [])
    command = ["fl-server", "runtime=ray", "runtime.cpus_per_client=4096", "board.url=null"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "runtime.cpus_per_client is 4096" in capsys.readouterr().err
