"""What a Hydra sweeper is told of a job: the validation score, never that of the holdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CALLBACK = """
from hydra.experimental.callback import Callback

class Told(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        print(f"told {job_return.return_value!r}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("fraction", ["null", "0.3"])
def test_sweeper_is_told_the_final_rounds_validation_score_or_nothing(tmp_path, fraction):
    (tmp_path / "told_by_hydra.py").write_text(CALLBACK)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "fl_server.cli", "rounds=3", "board.url=null"),
            f"data.validation_fraction={fraction}",
            "hydra.run.dir=out",
            "+hydra.callbacks.told._target_=told_by_hydra.Told",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    final = found["rounds"][found["final_round"]]
    assert (final["validation_score"] is None) is (fraction == "null")
    assert f"told {final['validation_score']!r}" in ended.stdout.splitlines()
