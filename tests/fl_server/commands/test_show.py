"""``fedleague show``, ``usecases`` and ``--version``: for people and for programs."""

import json

import pytest
from typer.testing import CliRunner

from fl_server.commands.cli import app


def result(strategy, final):
    overall = {"overall": {"f1_macro": final}, "subgroups": {}, "blocks": {}}
    return {
        "usecase": "heart",
        "model": "mlp",
        "strategy": strategy,
        "seed": 0,
        "score": {"name": "f1_macro", "baseline": 0.5, "final": final},
        "metrics": {"baseline": overall, "final": overall},
        "bounds": {},
        "absent": {},
        "rounds": [],
    }


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    folders = []
    for strategy, final in (("fedavg", 0.75), ("fedprox", 0.8125)):
        folder = tmp_path / f"{'deep/' * 20}{strategy}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result(strategy, final)))
        folders.append(str(folder))
    return folders


def printed(*arguments):
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_several_runs_stand_side_by_side_and_are_not_cut(runs):
    text = printed("show", *runs)
    for part in (*runs, "fedavg", "fedprox", "0.7500", "0.8125", "f1_macro, out of the box"):
        assert part in text
    row = next(line for line in text.splitlines() if "│ f1_macro " in line)
    assert row.index("0.7500") < row.index("0.8125")


def test_json_is_the_result_and_a_list_of_several(runs):
    assert json.loads(printed("show", "--json", runs[0])) == result("fedavg", 0.75)
    several = json.loads(printed("show", "--json", *runs))
    assert [one["strategy"] for one in several] == ["fedavg", "fedprox"]


def test_use_cases_as_json():
    found = {entry["slug"]: entry for entry in json.loads(printed("usecases", "--json"))}
    assert found["breast_cancer"].keys() == {"slug", "task", "score", "title"}


def test_version_is_ours():
    assert printed("--version").startswith("fedleague ")
