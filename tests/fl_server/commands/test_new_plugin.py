import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fl_common.errors import ConfigError
from fl_server.commands.cli import app
from fl_server.commands.new_plugin import write_plugin


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_strategy_writes_three_files_that_pass(folder):
    result = CliRunner().invoke(app, ["new", "strategy", "my_rule"])
    assert result.exit_code == 0, result.output
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert written == ["config/strategy/my_rule.yaml", "my_rule.py", "test_my_rule.py"]
    assert "fl-server --config-dir config strategy=my_rule" in result.output
    checked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_rule.py"]
    done = subprocess.run(checked, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


@pytest.mark.slow
def test_new_strategy_runs_on_the_command_line(folder):
    write_plugin("strategy", "my_rule", folder)
    run = [sys.executable, "-m", "fl_server.cli", "--config-dir", "config", "strategy=my_rule"]
    run += ["board.url=null", "rounds=1", "hydra.run.dir=out"]
    done = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "out" / "result.json").read_text())
    assert [record["status"] for record in result["rounds"]] == ["ok", "ok"]


@pytest.mark.slow  # mypy reads everything that the strategy imports
def test_what_it_writes_is_clean(folder):
    write_plugin("strategy", "my_rule", folder)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "MYPYPATH": str(root)}
    for tool in (["ruff", "check", "--line-length", "100"], ["mypy", "--strict"]):
        done = subprocess.run(
            [sys.executable, "-m", *tool, "my_rule.py"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["task", "model", "metric"])
def test_new_plugin_is_a_package_whose_test_passes(folder, kind):
    result = CliRunner().invoke(app, ["new", kind, "my_own"])
    assert result.exit_code == 0, result.output
    written = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert written == ["my_own.py", "pyproject.toml", "test_my_own.py"]
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    value = project["entry-points"][f"fedleague.{kind}s"]["my_own"]
    assert value == f"my_own:{'my_own' if kind == 'model' else 'MyOwn'}"
    checked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_own.py"]
    done = subprocess.run(checked, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    clean = [sys.executable, "-m", "ruff", "check", "--line-length", "100", "."]
    done = subprocess.run(clean, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("My-Rule", "no module name"),
        ("../evil", "no module name"),
        ("class", "no module name"),
        ("scaffold", "ships already"),
        ("json", "installed already"),
    ],
)
def test_names_that_cannot_work_are_refused(folder, name, why):
    with pytest.raises(ConfigError, match=why):
        write_plugin("strategy", name, folder)
    assert not list(folder.iterdir())


def test_nothing_is_overwritten(folder):
    (folder / "test_my_rule.py").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        write_plugin("strategy", "my_rule", folder)
    assert (folder / "test_my_rule.py").read_text() == "mine"
    assert not (folder / "my_rule.py").exists()
