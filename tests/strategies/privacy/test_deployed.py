"""The same with real processes, sockets, TLS and keys."""

from __future__ import annotations

import json

import pytest

from strategies.privacy.accounting import epsilon_of
from tests.test_deployment import SITES, Federation, simulate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def federation(tmp_path):
    federation = Federation(tmp_path)
    yield federation
    federation.close()
    for name in federation.processes:
        print(f"--- {name}\n{federation.log(name)}")


def result_of(federation):
    return json.loads((federation.folder / "deployed/result.json").read_text())


def audited(federation, name):
    lines = (federation.folder / name / "audit.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_secure_aggregation_over_the_wire_equals_the_plain_simulation(federation):
    """Two of our clients and Flower's own, which runs every message in a new process."""
    federation.overrides = lambda: [*Federation.overrides(federation), "rounds=1"]
    server = federation.server("board.serve=false", "privacy=secagg")
    for name in ("a", "b"):
        federation.client(name)
    federation.supernode("c")
    assert server.wait(400) == 0
    result = result_of(federation)
    assert [r["status"] for r in result["rounds"]] == ["ok", "ok"]
    assert {s["status"] for r in result["rounds"] for s in r["sites"]} == {"ok"}
    plain = simulate(federation)
    for phase in ("baseline", "final"):
        ours, theirs = (r["metrics"][phase]["overall"] for r in (result, plain))
        assert ours == pytest.approx(theirs, abs=1e-5)
    left = {
        array["name"]
        for line in audited(federation, "a")
        if line["direction"] == "out" and line["asked"] not in ("query.describe", "query.fit")
        for array in line["left"]
    }
    assert left == {"masked/vector"}


def test_budget_is_kept_in_a_file_over_runs(federation):
    """Site a has 450 rows: 29 batches of 16 in each of 20 epochs."""
    budget = epsilon_of([(4.0, 16 / 450, 2 * 20 * 29)], 1e-5) + 1e-6
    path = federation.folder / "a/site.yaml"
    path.write_text(path.read_text() + f"policy: {{epsilon_budget: {budget}}}\n")
    options = ("board.serve=false", "privacy=local_dpsgd", "privacy.noise_multiplier=4")
    server = federation.server(*options, "sites.quorum=2")
    for name in SITES:
        federation.client(name)
    assert server.wait(200) == 0
    trained = [
        next(s for s in record["sites"] if (s["site"], s["phase"]) == ("a", "train"))
        for record in result_of(federation)["rounds"][1:]
    ]
    assert [site["status"] for site in trained] == ["ok", "ok", "failed", "failed"]
    assert trained[1]["epsilon"] == pytest.approx(budget, abs=1e-5)
    assert "policy" in trained[2]["reason"]
    spent = json.loads((federation.folder / "a/epsilon.json").read_text())
    assert spent["releases"] == [[4.0, 16 / 450, 1160]]
    why = [line["why"] for line in audited(federation, "a") if line.get("decision") == "refused"]
    assert all("epsilon_budget" in reason for reason in why)
