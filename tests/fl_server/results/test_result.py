"""What stands in ``result.json`` and beside it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_common.errors import FileWriteError
from fl_server.config.compose import compose_overrides
from fl_server.results.records import RoundRecord, RunOutcome, SiteRecord
from fl_server.results.result import CURVE, MODEL, MODEL_CARD, RESULT, result_of, write_result
from tasks.scores import ScoreCard, Scores

KEYS = [
    *("usecase", "task", "strategy", "model", "runtime", "seed", "team", "claimed"),
    *("stopped_early", "final_round", "score", "metrics", "absent", "bounds"),
    *("confusion_matrix", "counts", "attributions", "rounds"),
]
SITES = (
    SiteRecord("berlin", "train", "ok", 100, 0.5, 10, 20, loss=0.25, epsilon=1.5),
    SiteRecord("paris", "train", "late", reason="no reply within 5 s"),
)
FINAL = ScoreCard(
    Scores(
        {"f1_macro": 0.75, "auroc": 0.9},
        {"ece": "too few rows"},
        {"auroc": 0.01},
        {"confusion_matrix": [[3, 1], [0, 4]]},
    ),
    {"women": Scores({"f1_macro": 0.5}, {"auroc": "one class"}, {"ece": 0.02})},
    {"mean": Scores({"f1_macro": 0.25})},
    {"x1": 0.125},
)


def record(number, score, card=None, **more):
    phase = "finetune" if number else "baseline"
    given = {"status": "ok", "sites": (), "seconds": 1.0, "bytes_up": 1, "bytes_down": 2, **more}
    card = card or ScoreCard(Scores({"f1_macro": score}))
    return RoundRecord(round=number, phase=phase, score=score, card=card, **given)


@pytest.fixture
def outcome():
    more = {"sites": SITES, "train_loss": 0.5, "epsilon": 1.5, "strategy_metrics": {"tau": 2.0}}
    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.zeros(1)}
    return RunOutcome(weights, (record(0, 0.5), record(1, 0.75, FINAL, **more)))


@pytest.fixture(scope="module")
def composed():
    """Compose once for all tests: nothing here looks into a site's file."""
    overrides = [
        "usecase=tabular_classification",
        "usecase.target=y",
        "usecase.classes=[n,p]",
        "data.sites=[a.csv,b.csv]",
        "rounds=3",
        "board.url=null",
        "model.params.hidden=[8]",
        "submission.team=aorta",
        "submission.claimed=0.9",
        "seed=7",
    ]
    return compose_overrides(overrides, Path("run"))


@pytest.fixture
def config(composed, tmp_path):
    return replace(composed, folder=tmp_path / "run")


def read(path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_result_has_its_keys_in_order(config, outcome):
    assert list(result_of(config, outcome)) == KEYS
    assert list(read(write_result(config, outcome, {}))) == KEYS


def test_result_says_who_ran_what_and_how_it_ended(config, outcome):
    result = read(write_result(config, outcome, {}))
    assert result["task"] == "tabular_classification"
    assert (result["usecase"], result["strategy"]) == (config.usecase.slug, "fedavg")
    assert (result["model"], result["runtime"], result["seed"]) == ("mlp", "simulation", 7)
    assert (result["team"], result["claimed"], result["stopped_early"]) == ("aorta", 0.9, False)
    assert result["final_round"] == 1
    assert result["score"] == {
        "name": config.usecase.score.name,
        "direction": "max",
        "baseline": 0.5,
        "final": 0.75,
    }


def test_scores_of_every_scope_stand_under_their_paths(config, outcome):
    result = result_of(config, outcome)
    assert result["metrics"] == {
        "baseline": {"overall": {"f1_macro": 0.5}, "subgroups": {}, "blocks": {}},
        "final": {
            "overall": {"f1_macro": 0.75, "auroc": 0.9},
            "subgroups": {"women": {"f1_macro": 0.5}},
            "blocks": {"mean": {"f1_macro": 0.25}},
        },
    }
    assert result["absent"] == {"ece": "too few rows", "subgroups/women/auroc": "one class"}
    assert result["bounds"] == {"auroc": 0.01, "subgroups/women/ece": 0.02}
    assert result["confusion_matrix"] == [[3, 1], [0, 4]]
    assert result["attributions"] == {"x1": 0.125}


def test_round_keeps_its_numbers_and_its_sites(config, outcome):
    found = read(write_result(config, outcome, {}))["rounds"]
    assert [item["round"] for item in found] == [0, 1]
    assert found[1] == {
        "round": 1,
        "phase": "finetune",
        "status": "ok",
        "reason": "",
        "score": 0.75,
        "train_loss": 0.5,
        "epsilon": 1.5,
        "validation_score": None,
        "strategy_metrics": {"tau": 2.0},
        "metrics": {"f1_macro": 0.75, "auroc": 0.9},
        "sites": [vars(site) for site in SITES],
        "seconds": 1.0,
        "bytes_up": 1,
        "bytes_down": 2,
    }


def test_final_round_is_the_one_that_the_validation_rows_choose(config):
    scores = [(0.5, 0.1), (0.6, 0.9), (0.7, 0.3)]
    rounds = tuple(record(n, s, validation_score=v) for n, (s, v) in enumerate(scores))
    result = result_of(config, RunOutcome({}, rounds, stopped_early=True))
    assert (result["final_round"], result["stopped_early"]) == (1, True)
    assert result["score"]["final"] == 0.6
    assert result["metrics"]["final"]["overall"] == {"f1_macro": 0.6}


def test_what_json_lacks_becomes_plain_or_null(config, outcome):
    values = {"nan": math.nan, "inf": np.float32("inf"), "f": np.float32(0.5), "n": np.int64(3)}
    arrays = {"confusion_matrix": np.array([[1.0, -math.inf], [0.0, 2.0]])}
    card = ScoreCard(Scores(values, arrays=arrays))
    last = record(1, math.nan, card, strategy_metrics={"tau": math.inf}, train_loss=math.nan)
    result = read(write_result(config, replace(outcome, rounds=(record(0, 0.5), last)), {}))
    plain = {"nan": None, "inf": None, "f": 0.5, "n": 3}
    assert result["metrics"]["final"]["overall"] == plain
    assert result["rounds"][1]["metrics"] == plain
    assert result["confusion_matrix"] == [[1.0, None], [0.0, 2.0]]
    assert (result["score"]["baseline"], result["score"]["final"]) == (0.5, None)
    assert result["rounds"][1]["strategy_metrics"] == {"tau": None}
    assert result["rounds"][1]["train_loss"] is None


def test_counts_are_those_that_the_task_declares(config, outcome):
    metrics = replace(config.metrics, counts=("rows", "boxes"))
    card = ScoreCard(Scores({"f1_macro": 0.5}, arrays={"rows": 8, "pixels": 9}))
    result = result_of(
        replace(config, metrics=metrics), replace(outcome, rounds=(record(0, 0.5, card),))
    )
    assert result["counts"] == {"rows": 8}


def test_model_its_card_and_the_curve_stand_beside(config, outcome):
    fitted = {"mean": np.array([0.5, math.nan]), "classes": ("n", "p")}
    assert write_result(config, outcome, fitted) == config.folder / RESULT
    names = {path.name for path in config.folder.iterdir()}
    assert names == {RESULT, MODEL, MODEL_CARD, CURVE}
    weights = load_file(config.folder / MODEL)
    np.testing.assert_array_equal(weights["w"], [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])
    card = read(config.folder / MODEL_CARD)
    assert (card["format"], card["task"], card["seed"]) == (1, "tabular_classification", 7)
    assert card["classes"] == card["schema"]["classes"] == ["n", "p"]
    assert (card["model"]["name"], card["model"]["params"]["hidden"]) == ("mlp", [8])
    assert card["preprocessing"] == {"mean": [0.5, None], "classes": ["n", "p"]}
    assert ET.fromstring((config.folder / CURVE).read_bytes()).tag.endswith("svg")


def test_folder_that_cannot_be_written_is_said(config, outcome):
    config.folder.parent.mkdir(exist_ok=True)
    config.folder.write_text("in the way")
    with pytest.raises(FileWriteError, match=r"model\.safetensors: cannot be written"):
        write_result(config, outcome, {})
