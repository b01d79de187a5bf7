"""`flwr run .` on the checkout: a real command line, local SuperLink and Ray engine."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_run

ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install '.[ray]'"
)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def stop_superlinks(home: Path) -> None:
    """End the SuperLink that `flwr` left behind: the one whose database is in our folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            if str(home).encode() in command and b"flower-superlink" in command:
                os.kill(int(folder.name), signal.SIGTERM)
        except (OSError, ProcessLookupError):
            continue


@pytest.fixture
def flower(tmp_path):
    """Environment of a Flower installation of its own."""
    home = tmp_path / "flwr_home"
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": free_port(),
        "FLWR_LOCAL_CONTROL_API_PORT": free_port(),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    yield env
    stop_superlinks(home)


def wait_for(path: Path, seconds: float = 30.0) -> dict:
    deadline = time.monotonic() + seconds
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    return json.loads(path.read_text())


def flwr_run(env: dict, cwd: Path, run_config: str, *more: str) -> str:
    command = [sys.executable, "-c", "from flwr.cli.app import app; app()", "run", str(ROOT)]
    done = subprocess.run(
        [*command, "--stream", "--run-config", run_config, *more],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_ray
@pytest.mark.slow
def test_flwr_run_leaves_the_scores_of_fl_server_in_the_folder(tmp_path, flower):
    before = (ROOT / "pyproject.toml").read_bytes()
    overrides = "board.url=null rounds=1"
    log = flwr_run(
        flower,
        tmp_path,
        f'usecase="breast_cancer" folder="{tmp_path}/flwr" overrides="{overrides}"',
        "--federation-config",
        "num-supernodes=4 client-resources-num-cpus=1",
    )
    result = wait_for(tmp_path / "flwr" / "result.json")
    folder = tmp_path / "own"
    command = [sys.executable, "-m", "fl_server.cli", *overrides.split(), f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    expected = wait_for(folder / "result.json")
    assert [r["score"] for r in result["rounds"]] == pytest.approx(
        [r["score"] for r in expected["rounds"]], abs=1e-6
    )
    assert "round 1" in log
    assert (ROOT / "pyproject.toml").read_bytes() == before


def test_a_table_is_cut_into_as_many_sites_as_there_are_nodes():
    config = compose_run({"usecase": "diabetes", "overrides": "", "folder": "out"}, num_nodes=2)
    assert len(config.site_data) == 2
    assert config.folder == Path("out")


def test_the_number_of_sites_on_the_command_line_wins():
    run_config = {"usecase": "diabetes", "overrides": "data.num_sites=3"}
    assert len(compose_run(run_config, num_nodes=10).site_data) == 3


def test_named_sites_need_as_many_nodes():
    with pytest.raises(ConfigError, match="num-supernodes=4"):
        compose_run({"usecase": "heart_disease"}, num_nodes=2)
