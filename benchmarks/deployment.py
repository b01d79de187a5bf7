"""What one round of a deployment costs beside learning: two sites, a tiny model, loopback.

    python benchmarks/deployment.py --rounds 5

Ours: `fl-server runtime=deployment` and two resident `fl-client`s. Stock: `flower-superlink`, two
`flower-supernode`s and `flwr run`. Both train and evaluate on both sites in each round. Seconds
are the server's own, per round; the first round, in which PyTorch is loaded, is listed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from measure import QUIET, save, show

BIN = Path(sys.executable).parent
SITES = ("north", "south")
WAIT_SECONDS = 600
COLUMNS = (
    ("system", "system"),
    ("sites", "sites"),
    ("rounds", "rounds"),
    ("seconds_per_round", "s/round"),
    ("first_round_seconds", "first round s"),
    ("seconds", "all rounds s"),
)
PYPROJECT = """\
[project]
name = "stock"
version = "1.0.0"
license = "Apache-2.0"
dependencies = ["flwr"]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "stock_deployment:server"
clientapp = "stock_deployment:client"

[tool.flwr.app.config]
rounds = 1
report = ""
"""


def main() -> None:
    """Run both systems one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    arguments = parser.parse_args()
    sides = {"fedleague": run_fedleague}
    if arguments.peer:
        sides["stock Flower"] = run_stock
    rows = []
    for system, run in sides.items():
        with tempfile.TemporaryDirectory() as folder:
            rounds = run(Path(folder), arguments.rounds)
        later = rounds[1:] or rounds
        row = {"system": system, "sites": len(SITES), "rounds": len(rounds)}
        row |= {"seconds_per_round": statistics.median(later), "first_round_seconds": rounds[0]}
        rows.append(row | {"seconds": sum(rounds)})
    show("coordination of a deployment", COLUMNS, rows)
    print(f"results: {save('deployment', rows, arguments.out)}")


def run_fedleague(folder: Path, num_rounds: int) -> list[float]:
    """Return the seconds of each round of ours."""
    write_sites(folder)
    port = free_port()
    server = [
        "fl-server", "usecase=tabular_regression", "usecase.target=y", "model=linear",
        "runtime=deployment", "runtime.insecure=true", "runtime.host=127.0.0.1",
        f"runtime.port={port}", "board.serve=false", "board.url=null", "sites.quorum=2",
        "train.local_epochs=1", f"rounds={num_rounds}", f"hydra.run.dir={folder}/run",
    ]  # fmt: skip
    with processes(folder) as start:
        run = start("server", server)
        for site in SITES:
            address = f"server=127.0.0.1:{port}"
            start(site, ["fl-client", f"site={folder}/{site}.yaml", address, "insecure=true"])
        finish(run, folder / "server.log")
    result = json.loads((folder / "run" / "result.json").read_text())
    return [round_["seconds"] for round_ in result["rounds"][1:]]


def run_stock(folder: Path, num_rounds: int) -> list[float]:
    """Return the seconds of each round of stock Flower."""
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PYPROJECT)
    source = Path(__file__).with_name("stock_deployment.py").read_text()
    (app / "stock_deployment.py").write_text(source)
    api, fleet, control = free_port(), free_port(), free_port()
    home = folder / "flwr_home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{api}"\n'
        "insecure = true\n"
    )
    report = folder / "report.json"
    with processes(folder, FLWR_HOME=str(home)) as start:
        here = f"127.0.0.1:{api}"
        start("superlink", superlink_command(api, fleet, control))
        wait_for_port(api)
        for site in SITES:
            own = ["--host", "127.0.0.1", "--port", str(free_port())]
            start(site, ["flower-supernode", "--insecure", "--superlink", here, *own])
        config = f'rounds={num_rounds} report="{report}"'
        finish(start("run", ["flwr", "run", str(app), "--run-config", config]), folder / "run.log")
        wait_for_file(report, folder)
    return json.loads(report.read_text())["rounds"]


def superlink_command(api: int, fleet: int, control: int) -> list[str]:
    addresses = ["--host", "127.0.0.1", "--port", str(api)]
    addresses += ["--fleet-api-address", f"127.0.0.1:{fleet}"]
    addresses += ["--control-api-address", f"127.0.0.1:{control}"]
    return ["flower-superlink", "--insecure", "--isolation", "subprocess", *addresses]


@contextmanager
def processes(folder: Path, **environment: str) -> Iterator:
    """Start commands with their logs in ``folder``; stop what still runs at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, command: list[str]) -> subprocess.Popen[bytes]:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        env = os.environ | QUIET | environment | {"PATH": path}
        with (folder / f"{name}.log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log))
        return running[-1]

    try:
        yield start
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def write_sites(folder: Path) -> None:
    """Write two sites of 40 rows and 9 columns."""
    for seed, site in enumerate(SITES):
        inputs = np.random.default_rng(seed).normal(size=(40, 9))
        frame = pd.DataFrame(inputs, columns=[f"x_{i}" for i in range(9)])
        frame.assign(y=inputs.sum(axis=1)).to_csv(folder / f"{site}.csv", index=False)
        (folder / f"{site}.yaml").write_text(f"name: {site}\ndata: {{train: {site}.csv}}\n")


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait(WAIT_SECONDS):
        sys.exit(f"{process.args} failed:\n{log.read_text()[-4000:]}")


def wait_for_file(path: Path, folder: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.is_file() or not path.stat().st_size:
        if time.monotonic() > deadline:
            logs = "\n".join(log.read_text()[-2000:] for log in folder.glob("*.log"))
            sys.exit(f"{path} was not written:\n{logs}")
        time.sleep(0.2)


def wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"nothing listens on port {port}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    main()
