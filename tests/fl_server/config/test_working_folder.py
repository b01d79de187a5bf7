"""Commands work from any folder, whatever it holds, and answer one's own faulty files in a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "fl_server.cli": ["usecase=brest_cancer"],
    "fl_client.cli": ["server=localhost:1"],
    "fl_server.commands.cli": ["check", "--site", "no.yaml", "--usecase", "brest_cancer"],
}
ROOT = str(Path(__file__).resolve().parents[3])


def call(folder: Path, module: str, *options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", module, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
    )
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", [False, True])
@pytest.mark.parametrize("module", COMMANDS)
def test_folders_of_the_same_names_disturb_no_command(tmp_path, module, package):
    for name in ("conf", "tasks", "strategies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "server.yaml").write_text("x: 1\n")
        if package:
            (tmp_path / name / "__init__.py").write_text("")
    code, err = call(tmp_path, module, *COMMANDS[module])
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1
    says = "site must be given" if module == "fl_client.cli" else "did you mean usecase=breast"
    assert says in err or "no.yaml" in err


@pytest.mark.slow
@pytest.mark.parametrize("value", ["0", "1", "", "yes"])
def test_hydras_own_switch_changes_nothing(tmp_path, value):
    code, err = call(tmp_path, "fl_server.cli", "usecase=brest_cancer", HYDRA_FULL_ERROR=value)
    assert (code, len(err.strip().splitlines())) == (2, 1), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("usecase:\n  slug: [a\n b: c\n", "mine.yaml, line 3: not valid YAML"),
        ("defaults:\n  - override /model: mlp\nusecase:\n  slug: a\n", "# @package _global_"),
        ("usecase:\n  slug: a\n", "# @package _global_"),
    ],
)
def test_a_use_case_of_ones_own_that_is_wrong_is_one_line(tmp_path, content, says):
    (tmp_path / "own/usecase").mkdir(parents=True)
    (tmp_path / "own/usecase/mine.yaml").write_text(content)
    code, err = call(tmp_path, "fl_server.cli", "--config-dir", "own", "usecase=mine")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert says in err
