"""The shelf's benchmark runs, names what it does not run, and judges the papers' orderings."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "strategies.py"


@pytest.mark.slow
def test_strategies_benchmark_writes_scores_and_verdicts(heart_disease, tmp_path):
    command = [sys.executable, str(SCRIPT), "--rounds", "2", "--seeds", "2"]
    command += ["--cases", "heart_disease", "--strategies", "fedavg", "scaffold", "fedbn"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        r["strategy"]: r for r in json.loads((tmp_path / "strategies.json").read_text())["rows"]
    }
    assert len(rows["fedavg"]["scores"]) == 3
    assert rows["scaffold"]["failed_rounds"] == 0
    assert rows["scaffold"]["kb_up"] > 1.8 * rows["fedavg"]["kb_up"]
    assert rows["fedbn"]["reason"]
    assert "SCAFFOLD, under heterogeneity" in done.stdout
