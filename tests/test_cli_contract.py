"""The commands that users' scripts rely on, as real processes from an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ROWS = 60


def command(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of our three commands; everything it says is kept."""
    name, *rest = arguments
    return subprocess.run(
        [str(BIN / name), *rest],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def done(folder: Path, *arguments: str, **env: str) -> str:
    """Run a command that must succeed silently on stderr; return what it printed."""
    ended = command(folder, *arguments, **env)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert ended.stderr == ""
    return ended.stdout


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("runs/*/**/result.json"))


def table(seed: int, rows: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x1, x2 = rng.normal(size=rows), rng.normal(5, 3, size=rows)
    sex = rng.choice(["f", "m"], size=rows)
    cls = np.where(2 * x1 - 0.5 * (x2 - 5) + rng.normal(size=rows) > 0, "p", "n")
    return pd.DataFrame({"x1": x1, "x2": x2, "sex": sex, "cls": cls, "y": 3 * x1 + x2})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with train and holdout files of two sites, and nothing else."""
    for seed, name in enumerate(("a", "b", "a_tr", "a_te", "b_tr", "b_te")):
        frame = table(seed)
        kind = ["y", "sex"] if "_" in name else ["cls", "sex"]
        frame.drop(columns=kind).to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


# ------------------------------------------------------------------ fl-server

CLASSIFICATION_KEYS = {
    *("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro"),
    *("f1_weighted", "f1_malignant", "f1_benign", "recall_malignant", "recall_benign", "mcc"),
    *("cohen_kappa", "qwk", "jaccard_macro", "hamming", "log_loss", "brier", "auc_roc", "auc_pr"),
    "gini",
}
REGRESSION_KEYS = {"mae", "mse", "rmse", "r2", "explained_variance", "mbe"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fl-server usecase=breast_cancer rounds=5` in an empty folder."""
    folder = tmp_path_factory.mktemp("demo")
    printed = done(folder, "fl-server", "usecase=breast_cancer", "rounds=5")
    assert "results: " in printed
    return folder


def test_result_has_what_is_promised(demo):
    (run,) = runs(demo)
    found = result(run)
    assert {"usecase", "strategy", "model", "score", "rounds", "metrics", "absent"} <= found.keys()
    assert (found["usecase"], found["strategy"], found["model"]) == (
        "breast_cancer",
        "fedavg",
        "mlp",
    )
    assert found["score"].keys() == {"name", "direction", "baseline", "final"}
    assert (found["score"]["name"], found["score"]["direction"]) == ("f1_macro", "max")
    assert found["score"]["final"] > found["score"]["baseline"]
    assert [r["round"] for r in found["rounds"]] == list(range(6))
    assert [r["phase"] for r in found["rounds"]] == ["baseline"] + ["finetune"] * 5
    for record in found["rounds"]:
        assert {"round", "phase", "metrics", "sites", "seconds", "bytes_up", "bytes_down"} <= (
            record.keys()
        )
        assert record["seconds"] > 0
        assert record["bytes_up"] > 0
        assert record["bytes_down"] > 0
        assert {site["status"] for site in record["sites"]} == {"ok"}
    assert found["metrics"].keys() == {"baseline", "final"}
    for card in found["metrics"].values():
        assert card.keys() == {"overall", "subgroups", "blocks"}
        assert card["overall"].keys() >= CLASSIFICATION_KEYS
        assert card["subgroups"].keys() == {"large_tumours"}
        assert card["blocks"].keys() == {"mean", "worst"}
    assert found["score"]["final"] == found["metrics"]["final"]["overall"]["f1_macro"]
    assert found["score"]["baseline"] == found["metrics"]["baseline"]["overall"]["f1_macro"]
    assert found["rounds"][-1]["metrics"] == found["metrics"]["final"]["overall"]
    for metric, reason in found["absent"].items():
        assert reason
        assert metric not in found["metrics"]["final"]["overall"]


def test_model_is_left_with_its_preprocessing(demo):
    (run,) = runs(demo)
    card = json.loads((run / "model.json").read_text())
    assert card["task"] == "tabular_classification"
    assert card["model"]["name"] == "mlp"
    assert card["model"]["params"]["hidden"] == [64, 32]
    assert card["classes"] == ["malignant", "benign"]
    assert len(card["preprocessing"]["numeric"]) == 30
    weights = load_file(run / "model.safetensors")
    assert weights
    assert all(np.isfinite(array).all() for array in weights.values())


def test_leaderboard_has_the_run(demo):
    with closing(sqlite3.connect(demo / "fedleague.sqlite")) as database:
        counts = {
            name: database.execute(f"select count(*) from {name}").fetchone()[0]
            for name in ("usecase", "site", "submission", "run", "round", "metric")
        }
        status = database.execute("select status from run").fetchone()[0]
    assert (counts["usecase"], counts["submission"], counts["run"]) == (1, 1, 1)
    assert (counts["site"], counts["round"]) == (4, 6)
    assert counts["metric"] > 6 * len(CLASSIFICATION_KEYS)
    assert status == "finished"


def test_folder_holds_nothing_else(demo):
    (run,) = runs(demo)
    assert {path.name for path in demo.iterdir()} == {"runs", "fedleague.sqlite"}
    expected = {"result.json", "model.safetensors", "model.json", "config.yaml"}
    assert {path.name for path in run.iterdir()} >= expected
    assert not list(run.glob(".*"))


def test_two_csv_files_to_regress(files):
    for name in "ab":
        table(ord(name)).drop(columns=["cls", "sex"]).to_csv(files / f"{name}.csv", index=False)
    done(
        files,
        *(
            "fl-server",
            "usecase=tabular_regression",
            "usecase.target=y",
            "data.sites=[a.csv,b.csv]",
        ),
        *("rounds=3", "model=linear", "train.lr=0.05"),
    )
    (run,) = runs(files)
    found = result(run)
    assert found["metrics"]["final"]["overall"].keys() >= REGRESSION_KEYS
    assert found["score"]["direction"] == "min"
    assert {s["site"] for s in found["rounds"][1]["sites"]} == {"a", "b"}

    rows = table(9, 5).drop(columns=["cls", "sex", "y"])
    rows.to_csv(files / "rows.csv", index=False)
    done(
        files,
        *("fedleague", "predict", "--run", str(run), "--data", "rows.csv", "--out", "preds.csv"),
    )
    predicted = pd.read_csv(files / "preds.csv")
    assert list(predicted.columns) == ["row", "prediction"]
    assert np.isfinite(predicted["prediction"]).all()
    assert len(predicted) == 5


def test_named_sites_with_holdout_files_to_classify(files):
    for kind in ("tr", "te"):
        for name in "ab":
            frame = table(hash(kind + name) % 100).drop(columns=["y", "sex"])
            frame.rename(columns={"cls": "y"}).to_csv(files / f"{name}_{kind}.csv", index=False)
    done(
        files,
        *("fl-server", "usecase=tabular_classification", "usecase.target=y"),
        *("usecase.classes=[n,p]", "rounds=2"),
        "data.sites=[{name:a,train:a_tr.csv,holdout:a_te.csv},"
        "{name:b,train:b_tr.csv,holdout:b_te.csv}]",
    )
    (run,) = runs(files)
    found = result(run)
    sites = {s["site"]: s for s in found["rounds"][1]["sites"] if s["phase"] == "evaluate"}
    assert {name: site["num_examples"] for name, site in sites.items()} == {"a": ROWS, "b": ROWS}

    done(
        files,
        *("fedleague", "predict", "--run", str(run), "--data", "a_te.csv", "--out", "p.csv"),
    )
    predicted = pd.read_csv(files / "p.csv")
    assert list(predicted.columns) == ["row", "prediction", "proba_n", "proba_p"]
    np.testing.assert_allclose(predicted[["proba_n", "proba_p"]].sum(axis=1), 1, atol=1e-9)
    best = predicted[["proba_n", "proba_p"]].to_numpy().argmax(axis=1)
    assert (predicted["prediction"].to_numpy() == np.array(["n", "p"])[best]).all()


def test_parquet_gives_what_csv_gives(tmp_path):
    for seed, name in enumerate("ab"):
        frame = table(seed).drop(columns="y")
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        frame.to_parquet(tmp_path / f"{name}.parquet")
    common = (
        *("usecase=tabular_classification", "usecase.target=cls", "usecase.classes=[n,p]"),
        *("usecase.categorical=[sex]", "rounds=1", "board.url=null"),
    )
    for kind in ("csv", "parquet"):
        sites = f"data.sites=[a.{kind},b.{kind}]"
        done(tmp_path, "fl-server", *common, sites, f"hydra.run.dir={kind}")
    left, right = (result(tmp_path / kind)["metrics"] for kind in ("csv", "parquet"))
    assert left == right
    for kind in ("csv", "parquet"):
        done(
            tmp_path,
            *("fedleague", "predict", "--run", "csv", "--data", f"a.{kind}"),
            *("--out", f"p_{kind}.csv"),
        )
    assert (tmp_path / "p_csv.csv").read_text() == (tmp_path / "p_parquet.csv").read_text()


def test_multirun_runs_every_strategy(tmp_path):
    done(
        tmp_path,
        *("fl-server", "-m", "usecase=breast_cancer", "strategy=fedavg,flwr_fedadam", "rounds=2"),
    )
    found = [result(run) for run in runs(tmp_path)]
    assert [r["strategy"] for r in found] == ["fedavg", "flwr_fedadam"]
    assert found[0]["score"]["baseline"] == found[1]["score"]["baseline"]
    assert found[0]["score"]["final"] != found[1]["score"]["final"]
    with closing(sqlite3.connect(tmp_path / "fedleague.sqlite")) as database:
        assert database.execute("select count(*) from run").fetchone() == (2,)


def test_any_flower_strategy_by_its_class(tmp_path):
    target = "strategy._target_=flwr.serverapp.strategy.FedTrimmedAvg"
    done(tmp_path, "fl-server", target, "rounds=1", "hydra.run.dir=run")
    assert result(tmp_path / "run")["strategy"] == "FedTrimmedAvg"


def test_run_killed_in_the_middle_resumes_to_the_same_result(tmp_path):
    common = (
        *("usecase=breast_cancer", "rounds=30", "train.local_epochs=20", "strategy=flwr_fedadam"),
        *("data.num_sites=4", "seed=5"),
    )
    whole = [*common, "hydra.run.dir=whole"]
    killed = [*common, "hydra.run.dir=killed"]
    process = subprocess.Popen(
        [str(BIN / "fl-server"), *killed],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert process.stdout is not None
    seen = ""
    deadline = time.monotonic() + 120
    for line in process.stdout:  # a line a round, as the output is no terminal
        seen += line
        if "round 3 " in line or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(30) == -signal.SIGKILL, seen
    assert not (tmp_path / "killed/result.json").exists()
    assert (tmp_path / "killed/checkpoint.safetensors").is_file()

    done(tmp_path, "fl-server", *killed, "resume=true")
    done(tmp_path, "fl-server", *whole)
    left, right = (
        load_file(tmp_path / "whole/model.safetensors"),
        load_file(tmp_path / "killed/model.safetensors"),
    )
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
    one, two = result(tmp_path / "whole"), result(tmp_path / "killed")
    assert one["metrics"] == two["metrics"]
    assert one["score"] == two["score"]
    assert [r["score"] for r in one["rounds"]] == [r["score"] for r in two["rounds"]]
    with closing(sqlite3.connect(tmp_path / "fedleague.sqlite")) as database:
        rows = database.execute(
            "select count(*) from round group by run_id order by run_id"
        ).fetchall()
    assert rows == [(31,), (31,)]  # the killed run kept its place


# ------------------------------------------------------------------ fedleague


def test_usecases_lists_what_there_is(tmp_path):
    printed = done(tmp_path, "fedleague", "usecases", COLUMNS="160")
    for name in ("breast_cancer", "diabetes", "rare_disease", "liquid_biopsy", "heart_disease"):
        assert name in printed
    assert "mbe (zero)" in printed
    assert not list(tmp_path.iterdir())


def test_show_prints_a_run(demo):
    (run,) = runs(demo)
    printed = done(demo, "fedleague", "show", str(run), COLUMNS="160")
    for text in ("f1_macro", "out of the box", "subgroups/large_tumours/", "blocks/worst/"):
        assert text in printed
    assert "5 finetune" in printed


def test_check_tells_a_site_whether_it_fits(tmp_path):
    table(1).drop(columns="y").to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "site.yaml").write_text("name: clinic\ndata: {train: a.csv}\naudit: a.jsonl\n")
    printed = done(
        tmp_path,
        *("fedleague", "check", "--site", "site.yaml", "--usecase", "tabular_classification"),
        *("--override", "usecase.target=cls", "--override", "usecase.classes=[n,p]"),
        *("--override", "usecase.categorical=[sex]"),
    )
    assert "site 'clinic' fits 'tabular_classification': 48 training rows, 12 held out" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "site.yaml"}


@pytest.mark.parametrize(
    ("name", "teaches"),
    [
        (
            "fl-server",
            (
                "fl-server usecase=diabetes rounds=10",
                "usecase=tabular_regression usecase.target=y data.sites=[a.csv,b.csv]",
                "-m usecase=heart_disease strategy=",
                "resume=true hydra.run.dir=",
                "runtime=deployment",
                "breast_cancer",
                "local_epochs: 2",
            ),
        ),
        (
            "fl-client",
            (
                "fl-client site=clinic_a/site.yaml server=HOST:9092 ca=ca.pem key=clinic_a.key",
                "fedleague keys new clinic_a",
                "policy: {min_rows:",
                "fedleague check --site",
            ),
        ),
        ("fedleague", ("predict", "usecases", "show", "board", "check", "keys", "certs")),
    ],
)
def test_help_teaches_by_example(tmp_path, name, teaches):
    printed = done(tmp_path, name, "--help", COLUMNS="160")
    for text in teaches:
        assert text in printed
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the wheel


def test_installed_wheel_works_outside_the_checkout(tmp_path):
    """conf/ travels as package data: nothing of the checkout is on the path."""
    source = tmp_path / "source"
    kept = ("fl_common", "fl_server", "fl_client", "strategies", "tasks", "conf")
    for package in kept:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("fedleague-*.whl")
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    # The checkout is installed in this environment as a link; -S and a path of our own hide it.
    site_packages = next(p for p in sys.path if p.endswith("site-packages"))
    code = (
        f"import sys; sys.path[:] = [{str(target)!r}, *[p for p in sys.path if p], "
        f"{site_packages!r}];"
        "import conf, fl_server; print(conf.__file__, fl_server.__file__);"
        "from fl_server.cli import main; sys.argv = ['fl-server', 'rounds=1']; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=empty,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    origins = ended.stdout.splitlines()[0].split()
    assert all(origin.startswith(str(target)) for origin in origins)
    assert len(runs(empty)) == 1
    assert not list(empty.glob("fl_server*"))
