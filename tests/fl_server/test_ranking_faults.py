"""What a ranking must not do, from the command line to the leaderboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_server.leaderboard.store import Store
from fl_server.leaderboard.views import LeaderboardView

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    """Run fl-server in a folder of its own; return what it printed and its result."""

    def run(*overrides: str, code: int = 0):
        folder = tmp_path / "runs" / str(len(list(tmp_path.glob("runs/*"))))
        ended = subprocess.run(
            [sys.executable, "-m", "fl_server.cli", *overrides, f"hydra.run.dir={folder}"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert ended.returncode == code, ended.stderr + ended.stdout
        found = json.loads((folder / "result.json").read_text()) if code == 0 else {}
        return ended.stdout + ended.stderr, found

    return run


@pytest.fixture
def board(tmp_path):
    """Return a use case's leaderboard as it is now."""

    def board(slug: str) -> LeaderboardView:
        with Store(f"sqlite:///{tmp_path}/fedleague.sqlite") as store:
            return store.leaderboard(slug)

    return board


def test_a_lower_mean_squared_error_ranks_higher(run, board):
    for rounds in (0, 3):
        run("usecase=diabetes", "usecase.score=mse", "usecase.slug=mine", f"rounds={rounds}")
    view = board("mine")
    assert view.usecase.score_direction == "min"
    first, second = view.results
    assert (first.rank, second.rank, first.num_rounds) == (1, 2, 3)
    assert first.final_score < second.final_score
    said, _ = run("usecase=diabetes", "usecase.score.name=mse", code=2)
    assert "contradicts 'mse'" in said


def test_result_page_and_model_agree_on_the_final_round(run, board, tmp_path):
    third = "data.validation_fraction=0.25"
    overrides = ("rounds=30", "early_stopping.patience=2", "train.lr=0.05")
    _, result = run(*overrides, third)
    assert result["stopped_early"]
    (entry,) = board("breast_cancer").results
    assert entry.final_score == result["score"]["final"]
    assert result["score"]["final"] == result["rounds"][result["final_round"]]["score"]
    model = tmp_path / "runs" / "0" / "model.safetensors"
    _, again = run("rounds=0", f"initial_weights={model}", third)
    assert again["score"]["baseline"] == result["score"]["final"]


def test_a_run_does_not_rewrite_its_use_case(run, board):
    for seed in (0, 1):
        said, _ = run("rounds=1", f"seed={seed}")
        assert "apart from the ranking" not in said
    said, _ = run("rounds=0", "usecase.title=X", "usecase.score={name: accuracy, direction: max}")
    (told,) = [line for line in said.splitlines() if "apart from the ranking" in line]
    assert told.startswith("custom evaluation: score and title differ")
    view = board("breast_cancer")
    assert view.usecase.title == "Breast cancer diagnosis from cell nuclei"
    assert view.usecase.score_formula_display == "f1_macro"
    assert sorted(item.rank for item in view.results) == [1, 2]
    assert [len(part.results) for part in view.apart] == [1]


def test_runs_on_other_held_out_rows_are_not_ranked_together(run, board):
    _, first = run("rounds=1")
    _, other = run("rounds=1", "seed=3")
    rows = [
        [site["num_examples"] for site in result["rounds"][0]["sites"]] for result in (first, other)
    ]
    assert rows[0] == rows[1]
    said, _ = run("rounds=1", "seed=3", "data.holdout_fraction=0.02")
    assert "not comparable: holdout_fraction differs: " in said
    view = board("breast_cancer")
    assert [item.rank for item in view.results] == [1, 2]
    (apart,) = view.apart
    assert apart.reason == "not comparable: holdout_fraction differs"
