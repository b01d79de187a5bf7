"""A whole federation as an organiser and three sites run it: processes, sockets, TLS, keys."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_server.results.checkpoint import FILE_NAME, read_checkpoint
from fl_server.superlink.keys import new_certificates, new_node_key
from tests.conftest import classification_frame

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]
BIN = Path(sys.executable).parent
SITES = ("a", "b", "c")
ROUNDS = 4


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


class Federation:
    """Starts and stops the processes; every log is a file that a failing test shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen] = {}
        for index, name in enumerate(SITES):
            site = folder / name
            site.mkdir()
            frame = classification_frame(600 + 100 * index, index)
            frame.iloc[150:].to_csv(site / "train.csv", index=False)
            frame.iloc[:150].to_csv(site / "holdout.csv", index=False)
            (site / "site.yaml").write_text(
                f"name: {name}\ndata: {{train: train.csv, holdout: holdout.csv}}\n"
                "audit: audit.jsonl\n"
            )
            new_node_key(folder / "keys", name)
        self.certificates = new_certificates(folder / "tls", ["127.0.0.1", "localhost"])

    def spawn(self, name: str, command: str, *arguments: str) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [str(BIN / command), *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The stock client starts `flower-superexec`, which it looks up on the path.
                env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
            )
        self.processes[name] = process
        return process

    def overrides(self) -> list[str]:
        return [
            "usecase=tabular_classification",
            "usecase.target=y",
            "usecase.classes=[n,p]",
            "usecase.categorical=[sex]",
            "model.params.hidden=[16]",
            "train.local_epochs=20",
            f"rounds={ROUNDS}",
        ]

    def server(self, *extra: str) -> subprocess.Popen:
        tls = self.certificates
        return self.spawn(
            "server",
            "fl-server",
            *self.overrides(),
            "runtime=deployment",
            "runtime.host=127.0.0.1",
            f"runtime.port={self.port}",
            f"runtime.certificate={tls.certificate}",
            f"runtime.private_key={tls.private_key}",
            f"runtime.ca={tls.ca}",
            f"runtime.node_keys=[{self.folder / 'keys'}]",
            "sites.expected=3",
            "sites.quorum=3",
            "hydra.run.dir=deployed",
            *extra,
        )

    def client(self, name: str, *extra: str, log: str = "", **replace: str) -> subprocess.Popen:
        options = {
            "site": str(self.folder / name / "site.yaml"),
            "server": f"127.0.0.1:{self.port}",
            "ca": str(self.certificates.ca),
            "key": str(self.folder / "keys" / f"{name}.key"),
            "threads": "1",
        } | replace
        overrides = [f"{key}={value}" for key, value in options.items()]
        return self.spawn(log or name, "fl-client", *overrides, *extra)

    def supernode(self, name: str) -> subprocess.Popen:
        """Flower's own client; its port of its own lets two tests run side by side."""
        return self.spawn(
            name,
            "flower-supernode",
            *("--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port())),
            *("--root-certificates", str(self.certificates.ca)),
            *("--auth-supernode-private-key", str(self.folder / "keys" / f"{name}.key")),
            *("--node-config", f'site="{self.folder / name / "site.yaml"}"'),
        )

    def kill(self, name: str) -> None:
        process = self.processes[name]
        process.send_signal(signal.SIGKILL)
        process.wait()

    def finished_rounds(self) -> int:
        path = self.folder / "deployed" / FILE_NAME
        return len(read_checkpoint(path.parent).rounds) - 1 if path.is_file() else -1

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        for name in self.processes:
            self.kill(name)


@pytest.fixture
def federation(tmp_path: Path):
    federation = Federation(tmp_path)
    yield federation
    federation.close()
    for name in federation.processes:
        print(f"--- {name}\n{federation.log(name)}")


def simulate(federation: Federation, *extra: str) -> dict:
    sites = ",".join(
        f"{{name: {n}, train: {n}/train.csv, holdout: {n}/holdout.csv}}" for n in SITES
    )
    subprocess.run(
        [
            BIN / "fl-server",
            *federation.overrides(),
            f"data.sites=[{sites}]",
            "hydra.run.dir=simulated",
            "board.url=null",
            *extra,
        ],
        cwd=federation.folder,
        check=True,
        capture_output=True,
    )
    return json.loads((federation.folder / "simulated/result.json").read_text())


def assert_equal_models(federation: Federation) -> None:
    left, right = (
        load_file(federation.folder / run / "model.safetensors")
        for run in ("deployed", "simulated")
    )
    assert left.keys() == right.keys()
    for name, value in right.items():
        np.testing.assert_allclose(left[name], value, atol=1e-6, err_msg=name)


def test_federation_with_tls_keys_and_kills_equals_the_simulation(federation):
    """Kill one client in round 2 and restart it; kill the server in round 3 and resume."""
    board_port = free_port()
    serve = ("board.serve=true", f"board.port={board_port}")
    federation.client("a")  # before there is a server
    server = federation.server(*serve)
    federation.client("b")
    federation.client("c")

    wait_until(lambda: federation.finished_rounds() >= 1, 150, "round 1")
    federation.kill("b")
    federation.client("b")
    wait_until(lambda: federation.finished_rounds() >= 2, 150, "round 2")
    page = f"http://127.0.0.1:{board_port}/api/usecases/tabular_classification/leaderboard"
    with urllib.request.urlopen(page) as response:
        assert json.load(response)["results"]
    federation.kill("server")
    finished = federation.finished_rounds()
    assert finished < ROUNDS
    server = federation.server("resume=true", *serve)
    assert server.wait(200) == 0

    deployed = json.loads((federation.folder / "deployed/result.json").read_text())
    assert [r["round"] for r in deployed["rounds"]] == list(range(ROUNDS + 1))
    for record in deployed["rounds"]:
        assert record["status"] == "ok"
        assert {s["site"]: s["status"] for s in record["sites"]} == dict.fromkeys(SITES, "ok")

    simulated = simulate(federation)
    for phase in ("baseline", "final"):
        ours, theirs = (r["metrics"][phase]["overall"] for r in (deployed, simulated))
        assert ours.keys() == theirs.keys()
        for metric, value in theirs.items():
            assert ours[metric] == pytest.approx(value, abs=1e-6), metric
    assert_equal_models(federation)
    with sqlite3.connect(federation.folder / "fedleague.sqlite") as database:
        assert database.execute("select count(*) from run").fetchone() == (1,)
        assert database.execute("select count(*) from round").fetchone() == (ROUNDS + 1,)
    audit = [
        json.loads(line) for line in (federation.folder / "a/audit.jsonl").read_text().splitlines()
    ]
    assert {line["direction"] for line in audit} == {"in", "out"}
    assert all("decision" in line for line in audit if line["direction"] == "out")


SCAFFOLD = ("strategy=scaffold", "train.optimizer=sgd")


@pytest.mark.parametrize("killed", ["b", "server"])
def test_what_sites_remember_survives_a_kill(federation, killed):
    """SCAFFOLD's control variates, c at the server and c_i at each site, stay in step."""
    serve = (*SCAFFOLD, "rounds=8", "board.serve=false")
    server = federation.server(*serve)
    for name in SITES:
        federation.client(name)
    wait_until(lambda: federation.finished_rounds() >= 2, 150, "round 2")
    federation.kill(killed)
    assert federation.finished_rounds() < 8
    if killed == "server":
        server = federation.server("resume=true", *serve)
    else:
        federation.client(killed)
    assert server.wait(200) == 0
    assert "start anew" not in federation.log("server")
    deployed = json.loads((federation.folder / "deployed/result.json").read_text())
    for record in deployed["rounds"]:
        assert {s["site"]: s["status"] for s in record["sites"]} == dict.fromkeys(SITES, "ok")
    simulate(federation, *SCAFFOLD, "rounds=8")
    assert_equal_models(federation)
    for name in SITES:
        kept = list((federation.folder / name / "memory").iterdir())
        assert len(kept) == 2
        assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}


def test_site_that_stays_away_costs_its_own_contribution(federation):
    server = federation.server("sites.quorum=2", "sites.rejoin_seconds=1", "board.serve=false")
    for name in SITES:
        federation.client(name)
    wait_until(lambda: federation.finished_rounds() >= 1, 150, "round 1")
    federation.processes["c"].terminate()  # leaves in good order and does not come back
    assert server.wait(200) == 0
    result = json.loads((federation.folder / "deployed/result.json").read_text())
    last = {(s["site"], s["phase"]): s for s in result["rounds"][-1]["sites"]}
    assert last["c", "train"]["status"] == "absent"
    assert last["c", "train"]["reason"]
    assert last["a", "train"]["status"] == last["b", "train"]["status"] == "ok"
    assert all(record["status"] == "ok" for record in result["rounds"])


CANNOT_JOIN = [
    ({"ca": "{other_ca}"}, (), "its certificate is not trusted"),
    ({"key": "{stranger}"}, (), "ask the organiser to enrol"),
    ({"ca": "missing.pem"}, (), "missing.pem: no such CA file"),
    ({"key": "missing.key"}, (), "missing.key"),
    ({"server": "127.0.0.1:{closed}"}, ("max_wait_seconds=1",), "no answer within 1 s"),
    ({"server": "127.0.0.1:{web}"}, ("max_wait_seconds=5",), "127.0.0.1:{web}"),
    ({"ca": "null", "key": "null"}, ("insecure=true",), "insecure"),
]


def test_client_that_cannot_join_says_why(federation, tmp_path):
    web_port = free_port()
    federation.server("board.serve=true", f"board.port={web_port}")
    wait_until(lambda: listens(web_port), 60, "the board")
    places = {
        "other_ca": new_certificates(tmp_path / "other", ["127.0.0.1"]).ca,
        "stranger": new_node_key(tmp_path / "stranger", "x")[0],
        "closed": free_port(),
        "web": web_port,
    }
    for number, (replace, extra, says) in enumerate(CANNOT_JOIN):
        replace = {key: value.format(**places) for key, value in replace.items()}
        client = federation.client("a", *extra, log=f"a{number}", **replace)
        assert client.wait(60) == 2, says
        lines = federation.log(f"a{number}").splitlines()
        assert not [line for line in lines if "Traceback" in line]
        assert says.format(**places).lower() in lines[-1].lower()


def test_fedbuff_does_not_wait_for_a_slow_site(federation):
    """One client stands still in round 1 and for two more; its update counts when it comes."""
    strategy = ("strategy=fedbuff", "strategy.buffer_size=2", "rounds=20")
    server = federation.server("board.serve=false", *strategy)
    for name in SITES:
        federation.client(name)
    # The first training takes seconds (PyTorch is loaded): c is in it.
    wait_until(lambda: federation.finished_rounds() >= 0, 120, "the baseline")
    federation.processes["c"].send_signal(signal.SIGSTOP)
    wait_until(lambda: federation.finished_rounds() >= 3, 60, "three rounds without a site")
    federation.processes["c"].send_signal(signal.SIGCONT)
    assert server.wait(200) == 0
    result = json.loads((federation.folder / "deployed/result.json").read_text())
    assert {r["status"] for r in result["rounds"]} == {"ok"}
    phases = [{(s["site"], s["phase"]): s for s in r["sites"]} for r in result["rounds"]]
    for record in phases[1:4]:
        assert record.get(("c", "train"), {"status": "training"})["status"] == "training"
        assert record["c", "evaluate"]["status"] == "training"
        assert {record[name, "evaluate"]["status"] for name in "ab"} == {"ok"}
    assert any(record.get(("c", "train"), {}).get("status") == "ok" for record in phases[4:])
    assert {phases[-1][name, "evaluate"]["status"] for name in SITES} == {"ok"}
    for record in phases[1:]:
        assert sum(s["status"] == "ok" for s in record.values() if s["phase"] == "train") == 2


def test_stock_supernode_takes_part(federation):
    """Flower's own client, with its key and our CA, beside two of ours.

    It starts a process for each message: what the site remembers is in its files only.
    """
    server = federation.server("board.serve=false", *SCAFFOLD)
    for name in ("a", "b"):
        federation.client(name)
    federation.supernode("c")
    assert server.wait(350) == 0
    result = json.loads((federation.folder / "deployed/result.json").read_text())
    simulated = simulate(federation, *SCAFFOLD)
    assert_equal_models(federation)
    assert {s["site"] for s in result["rounds"][-1]["sites"]} == set(SITES)
    assert result["score"]["final"] == pytest.approx(simulated["score"]["final"], abs=1e-6)
