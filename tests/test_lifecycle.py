"""How commands end: signals, closed pipes, resumed runs; as real processes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ENV = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
ENV.pop("COLUMNS", None)  # a test runner may set it; in a file nothing is cut


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "fl-server"), *options],
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=folder,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def wait_for_round(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if f"round {number} " in line:
            return
    pytest.fail(f"ended before round {number}: {process.communicate()}")


def recorded(folder: Path) -> tuple[str, str, int]:
    with closing(sqlite3.connect(folder / "fedleague.sqlite")) as database:
        found = database.execute("select status, reason, num_rounds_done from run").fetchall()
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_a_run_that_its_folder_continues(tmp_path, number, code):
    process = start(tmp_path, "rounds=400", "hydra.run.dir=run")
    wait_for_round(process, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert len(err.strip().splitlines()) == 1
    assert f"fl-server: stopped by the organiser ({number.name}) after round" in err
    status, reason, rounds = recorded(tmp_path)
    assert status == "stopped"
    assert f"after round {rounds}; continue with fl-server resume=" in reason
    assert not (tmp_path / "run/result.json").exists()

    ended = run(tmp_path, "fl-server", "resume=run", f"rounds={rounds + 1}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert recorded(tmp_path) == ("finished", "", rounds + 1)
    whole = (f"rounds={rounds + 1}", "hydra.run.dir=whole", "board.url=null")
    assert run(tmp_path, "fl-server", *whole).returncode == 0
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_killed_run_has_its_configuration_and_looks_lost_in_time(tmp_path):
    process = start(tmp_path, "rounds=400", "hydra.run.dir=run", "seed=3")
    wait_for_round(process, 1)
    process.kill()
    process.communicate()
    status, _, rounds = recorded(tmp_path)
    assert status == "running"
    with closing(sqlite3.connect(tmp_path / "fedleague.sqlite")) as database:
        database.execute("update run set last_sign_at = '2026-01-01 00:00:00.000000'")
        database.commit()
    from fl_server.leaderboard.store import Store

    with Store(f"sqlite:///{tmp_path}/fedleague.sqlite") as store:
        (entry,) = store.leaderboard("breast_cancer").results
        assert (entry.status, entry.rank) == ("lost", None)
        assert "no sign of life since" in entry.note
    ended = run(tmp_path, "fl-server", "resume=run", f"rounds={rounds + 1}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert recorded(tmp_path) == ("finished", "", rounds + 1)
    refused = run(tmp_path, "fl-server", "resume=run", "seed=4")
    assert refused.returncode == 2
    assert "seed=4 contradicts the run in run, which has seed=3" in refused.stderr


def test_run_whose_every_round_failed_is_failed(tmp_path):
    ended = run(
        tmp_path, "fl-server", "rounds=2", "hydra.run.dir=run", "sites.max_update_norm=1e-9"
    )
    assert ended.returncode == 2
    status, reason, _ = recorded(tmp_path)
    assert status == "failed"
    assert "none of 2 rounds succeeded" in reason


def test_closed_pipe_does_not_end_a_run(tmp_path):
    process = start(tmp_path, "rounds=4", "hydra.run.dir=run")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(120) == 0
    process.stderr.close()
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert len(result["rounds"]) == 5
    assert recorded(tmp_path) == ("finished", "", 4)


def test_closed_pipe_does_not_trouble_fedleague(tmp_path):
    command = f"{BIN / 'fedleague'} usecases | true; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", ["fl-server", "fl-client", "fedleague"])
def test_version_is_ours(tmp_path, command):
    from importlib.metadata import version

    ended = run(tmp_path, command, "--version")
    assert (ended.returncode, ended.stdout) == (0, f"fedleague {version('fedleague')}\n")


def test_jobs_of_a_multirun_are_told_apart(tmp_path):
    options = ("rounds=1", "board.url=null", "seed=1,2")
    ended = run(tmp_path, "fl-server", "-m", *options)
    assert ended.returncode == 0
    assert "job 0: rounds=1 board.url=null seed=1\n" in ended.stdout
    assert "job 1: rounds=1 board.url=null seed=2\n" in ended.stdout
    _, _, table = ended.stdout.partition("all jobs")
    assert "seed=1" in table
    assert "rounds=1" not in table
    for result in tmp_path.glob("runs/*/*/*/result.json"):
        assert f"{json.loads(result.read_text())['score']['final']:.4f}" in table
        assert str(result.parent) in table


def test_heartbeat_is_written_while_a_round_takes_its_time(tmp_path):
    """Started with a short interval: the sign of life moves without any round ending."""
    program = (
        "from fl_server.observers import leaderboard\n"
        "leaderboard.SIGN_OF_LIFE_SECONDS = 0.1\n"
        "from fl_server import cli\n"
        "cli.main()\n"
    )
    slow = ("train.local_epochs=100", "train.batch_size=4")
    process = subprocess.Popen(
        [sys.executable, "-c", program, "rounds=1", *slow],
        cwd=tmp_path,
        env=ENV,
    )
    seen: set[tuple[str, int]] = set()
    deadline = time.monotonic() + 60
    try:
        while len(seen) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
            if (tmp_path / "fedleague.sqlite").exists():
                with closing(sqlite3.connect(tmp_path / "fedleague.sqlite")) as database:
                    try:
                        query = "select last_sign_at, num_rounds_done from run"
                        seen |= set(database.execute(query).fetchall())
                    except sqlite3.OperationalError:
                        continue  # not made yet
    finally:
        process.kill()
        process.wait()
    assert len({sign for sign, rounds in seen if rounds == 0}) >= 3
