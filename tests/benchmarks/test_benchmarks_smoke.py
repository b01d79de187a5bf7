"""Each benchmark runs at a tiny size, without its peer; nothing is said about its times."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = {
    "simulation": ["--clients", "6", "--rounds", "2", "--repeats", "1"],
    "memory": ["--replies", "3", "--megabytes", "1"],
    "deployment": ["--rounds", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_benchmark_runs_and_writes_its_numbers(name, tmp_path):
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *TINY[name]]
    done = subprocess.run(
        [*command, "--no-peer", "--out", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["rows"]
    assert report["machine"]["flwr"]


@pytest.mark.slow
def test_simulation_and_plain_loop_agree(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "simulation.py"), *TINY["simulation"]]
    subprocess.run(
        [*command, "--no-peer", "--out", str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=240,
    )
    rows = json.loads((tmp_path / "simulation.json").read_text())["rows"]
    ours, loop = (row["accuracy"] for row in rows)
    assert ours == pytest.approx(loop, abs=1e-6)
