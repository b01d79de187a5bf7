"""The list of use cases, for people and for programs."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from fl_server.commands.cli import app
from fl_server.commands.usecases import _score, list_usecases


def test_every_use_case_is_listed_with_its_task_and_score():
    found = {entry.slug: entry for entry in list_usecases()}
    assert found["breast_cancer"].task == "tabular_classification"
    assert found["breast_cancer"].score.startswith("f1_macro")
    assert all(entry.title for entry in found.values())


def test_a_score_need_not_say_its_direction():
    assert _score("mse") == _score({"name": "mse"}) == "mse"
    assert _score({"name": "mine", "direction": "max"}) == "mine (max)"


def test_json_has_what_the_table_has():
    shown = json.loads(CliRunner().invoke(app, ["usecases", "--json"]).stdout)
    assert [entry["slug"] for entry in shown] == [entry.slug for entry in list_usecases()]
    table = CliRunner().invoke(app, ["usecases"]).stdout
    assert all(entry["slug"] in table for entry in shown)
