"""What bad input gets: exit code 2, one line that names the place and the cure, nothing left.

Most cases call the commands' ``main`` in this process; a few start the real ones.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from safetensors.numpy import save_file

from fl_client import cli as client_cli
from fl_common import files
from fl_common.errors import ConfigError
from fl_server import cli as server_cli
from fl_server.commands import cli as commands
from fl_server.config.compatibility import check_run
from fl_server.config.run_config import freeze
from fl_server.results import checkpoint

MAINS: dict[str, Callable[[], None]] = {
    "fl-server": server_cli.main,
    "fl-client": client_cli.main,
    "fedleague": commands.main,
}
ROWS = 24


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it left in the working folder."""

    code: int
    err: str
    out: str
    left: set[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two good sites, a.csv and b.csv."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        _frame(seed).to_csv(f"{name}.csv", index=False)
    return tmp_path


def _frame(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x1, x2 = rng.normal(size=ROWS), rng.normal(size=ROWS)
    sex = np.where(rng.random(ROWS) > 0.5, "f", "m")
    y = np.where(x1 + x2 > 0, "p", "n")
    y[:4] = ["n", "n", "p", "p"]
    return pd.DataFrame({"x1": x1, "x2": x2, "sex": sex, "y": y})


@pytest.fixture
def call(folder, monkeypatch, capsys) -> Callable[..., Ended]:
    """Run a command in this process as if typed in the working folder."""

    def run(command: str, *arguments: str) -> Ended:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        before = _tree(folder)
        capsys.readouterr()
        code = 0
        try:
            MAINS[command]()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        streams = capsys.readouterr()
        return Ended(code, streams.err, streams.out, _tree(folder) - before)

    return run


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_refused(ended: Ended, *says: str) -> None:
    assert ended.code == 2, ended
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert "Traceback" not in ended.err + ended.out
    for text in says:
        assert text in ended.err
    assert ended.left == set()


# ------------------------------------------------------------------ options

OPTIONS = [
    # names that do not exist, with the near match
    ("usecase=breast_cancr", "unknown usecase 'breast_cancr'; did you mean usecase=breast_cancer?"),
    ("model=mlpp", "did you mean model=mlp?"),
    ("strategy=fedavgg", "did you mean strategy=fedavg"),
    ("runtime=simulatio", "did you mean runtime=simulation?"),
    ("partition=iidd", "did you mean partition=iid?"),
    ("usecase.task=tabular_clasification", "did you mean 'tabular_classification'?"),
    ("model.name=mpl", "model 'mpl' does not exist"),
    ("data.dataset=brest_cancer", "did you mean 'breast_cancer'?"),
    ("usecase.score.name=f1_macr", "did you mean 'f1_macro'"),
    ("usecase.score={name:recall_malignnt,direction:max}", "did you mean 'recall_malignant'"),
    ("usecase.score.name=mse", "unknown metric 'mse'"),
    ("usecase.score.name=blocks/mena/f1_macro", "did you mean 'blocks/mean/f1_macro'?"),
    ("usecase.extra_columns=[subgroups/nope/accuracy]", "scope 'subgroups/nope' does not exist"),
    ("usecase.score.direction=up", "must be max, min or zero"),
    ("roundz=3", "unknown option 'roundz'; did you mean rounds=...?"),
    ("train.lrr=0.1", "unknown option 'train.lrr'; did you mean train.lr=...?"),
    ("data.num_site=3", "did you mean data.num_sites=...?"),
    ("model.params.hiden=[3]", "did you mean model.params.hidden=...?"),
    ("+train.lrr=0.1", "unknown key 'train.lrr'; did you mean 'train.lr'?"),
    ("+strategy.fraction_evalute=0.5", "did you mean 'fraction_evaluate'?"),
    ("strategy.fraction_train=0.5", "was renamed to 'sampling.fraction'"),
    ("usecase.fit=crop", "was renamed to 'usecase.resize'"),
    ("+usecase.letterbox=false", "was renamed to 'usecase.resize'"),
    ("+usecase.subgruops={}", "did you mean 'subgroups'?"),
    ("data.sites=[{name:a,trian:a.csv}]", "neither a file nor {name: ..., train: ...}"),
    ("data.sites=[{train:a.csv,holdut:b.csv}]", "did you mean 'data.sites[0].holdout'?"),
    # malformed
    ("train.lr", "write KEY=VALUE"),
    ("rounds=[", "write KEY=VALUE"),
    ("usecase=5", "write GROUP=NAME"),
    ("model=null", "write GROUP=NAME"),
    ("train=null", "train must have keys below it"),
    ("data=null", "data must have keys below it"),
    ("model.params=3", "model.params must have keys below it"),
    ("usecase.slug=a/b", "usecase.slug"),
    ("usecase.target=null", "usecase.target is missing"),
    ("rounds=-1", "rounds must be a whole number"),
    ("train.lr=0", "train.lr must be a positive number"),
    ("train.lr=abc", "train.lr must be a positive number"),
    ("train.optimizer=foo", "choose from 'sgd'"),
    ("train.loss=foo", "choose from 'cross_entropy'"),
    ("model.params.hidden=[x]", "expected widths from 1"),
    ("data.holdout_fraction=2", "must be between 0 and 1"),
    ("data.on_invalid=maybe", "data.on_invalid is 'maybe'; expected refuse or drop"),
    ("data.on_invalid=drop", "data.on_invalid is for pictures"),
    (
        "data.sites=[{name:a,train:a.csv,on_invalid:5},b.csv]",
        "data.sites[0].on_invalid is 5; expected refuse or drop",
    ),
    ("data.num_sites=0", "data.num_sites must be a whole number, at least 1"),
    ("data.num_sites=300", "set data.num_sites to at most 284"),
    ("partition.kind=foo", "partition kind 'foo'"),
    ("partition=column", "partition.column must be given"),
    ("partition=column partition.column=nope", "'nope'"),
    ("model.params.hidden=[65536,65536]", "at most 268,435,456 are allowed"),
    ("strategy._target_=foo.Bar", "strategy foo.Bar cannot be made"),
    ("strategy._target_=argparse.Namespace", "is not a flwr.serverapp.strategy.Strategy"),
    ("strategy._target_=null", "strategy._target_"),
    ("usecase=tabular_regression data.sites=[a.csv,b.csv]", "usecase.target must be given"),
    ("usecase=tabular_regression usecase.target=y", "give data.sites=[a.csv,b.csv]"),
    ("sampling=stratified sampling.groups={north:[site_00]}", "did you mean 'site_0'?"),
    ("strategy=fedadam strategy.tau=0", "strategy.tau must be a number, above 0, got 0"),
    ("strategy=krum strategy.num_malicious_nodes=1", "at least 5 replies, got 4"),
    ("strategy=cyclic sampling.fraction=0.5", "set sampling=uniform sampling.fraction=1"),
    (
        "strategy._target_=flwr.serverapp.strategy.DifferentialPrivacyClientSideFixedClipping",
        "set privacy=central_fixed or privacy=central_adaptive",
    ),
    ("board.url=abc", "not a database URL"),
    ("board.url=sqlite:///a.csv", "a.csv is not an SQLite database"),
    ("board.url=sqlite:///a.csv/x.sqlite", "a.csv"),
    ("board.url=postgresql://u:secret@127.0.0.1:1/x", "127.0.0.1:1"),
    ("hydra.run.dir=a.csv/run", "choose another folder with hydra.run.dir"),
    ("resume=true", "no checkpoint to resume from"),
    ("-m rounds=1,abc rounds=abc", "rounds"),
    ("-m strategy=fedavg,foo", "unknown strategy 'foo'"),
]


VALUES: dict[str, tuple[str, ...]] = {
    "rounds": ("-1", "abc", "1.5", "null", "true"),
    "seed": ("-1", "abc"),
    "resume": ("abc", "1"),
    "board.serve": ("abc",),
    "submission.claimed": ("abc", "nan"),
    "submission.team": ("null", "5"),
    "train.lr": ("0", "abc", "-1", "nan", "inf", "null", "'0.1'"),
    "train.optimizer": ("foo", "3", "null"),
    "train.loss": ("foo", "mse", "3", "focal:x", "label_smoothing:2"),
    "train.class_weight": ("foo",),
    "train.batch_size": ("0", "1.5", "abc"),
    "train.local_epochs": ("0", "1.5", "abc"),
    "train.local_steps": ("0", "1.5", "abc"),
    "train.momentum": ("-1", "abc"),
    "train.weight_decay": ("-1", "abc"),
    "train.grad_clip": ("0", "abc"),
    "model.params.hidden": ("[x]", "abc", "[0]", "[-3]", "[1.5]", "{a:1}"),
    "model.params.dropout": ("1", "-1", "abc"),
    "model.params.activation": ("foo", "3"),
    "data.holdout_fraction": ("2", "0", "1", "abc"),
    "data.validation_fraction": ("2", "0", "1", "-0.1", "abc", "true"),
    "data.num_sites": ("0", "-3", "abc"),
    "data.split_seed": ("abc",),
    "data.on_invalid": ("maybe", "5", "true", "[drop]"),
    "data.names": ("[a,a,b,c]", "[a]", "abc"),
    "data.sites": ("abc", "[1]", "[{name:a}]"),
    "sites.quorum": ("0", "abc"),
    "sites.expected": ("0", "abc"),
    "sites.wait_seconds": ("-1", "abc"),
    "sites.reply_seconds": ("0", "abc"),
    "sites.max_update_norm": ("0", "abc"),
    "early_stopping.patience": ("0", "abc"),
    "early_stopping.min_delta": ("-1", "abc"),
    "board.port": ("abc", "-1", "99999"),
    "board.url": ("5",),
    "runtime.threads": ("0", "abc"),
    "partition.alpha": ("0", "abc"),
    "initial_weights": ("nope.safetensors", "5"),
    "strategy.fraction_evaluate": ("2", "-1", "abc"),
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in VALUES.items() for v in values])
def test_value_that_does_not_fit_is_named(tmp_path, demo, key, value):
    """What `main` turns into one line (above), for every value without composing each time."""
    config = copy.deepcopy(demo)
    OmegaConf.update(config, key, yaml.safe_load(value), merge=False, force_add=True)
    with pytest.raises(ConfigError, match=re.escape(key)):
        check_run(freeze(config, tmp_path / "run", "fedavg"))


@pytest.fixture(scope="module")
def demo():
    """The composed configuration of the demo."""
    GlobalHydra.instance().clear()
    with initialize_config_module("conf", version_base="1.3"):
        return compose("server")


@pytest.mark.parametrize(("options", "says"), OPTIONS, ids=[options for options, _ in OPTIONS])
def test_option_that_does_not_fit_is_one_line(call, options, says):
    ended = call("fl-server", *options.split())
    assert_refused(ended, "fl-server: ", says)
    assert "secret" not in ended.err


# ------------------------------------------------------------------ data


def _replace_cell(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def edit(frame: pd.DataFrame) -> pd.DataFrame:
        frame[column] = frame[column].astype(object)
        frame.loc[4, column] = value
        return frame

    return edit


FRAMES = {
    "no_target": (lambda f: f.drop(columns="y"), "row 1: target column 'y' is missing"),
    "unknown_class": (_replace_cell("y", "q"), "row 6, column 'y': class 'q' is not one of"),
    "missing_target": (_replace_cell("y", None), "row 6, column 'y': the target is missing"),
    "text_in_number": (_replace_cell("x1", "abc"), "row 6, column 'x1': 'abc' is not a number"),
    "infinite": (_replace_cell("x1", "inf"), "row 6, column 'x1'"),
    "no_rows": (lambda f: f.iloc[:0], "has a header but no rows"),
    "one_row": (lambda f: f.iloc[:1], "has one row"),
    "no_feature": (lambda f: f[["y"]], "'sex'"),
    "categorical_missing": (lambda f: f.drop(columns="sex"), "'sex' of usecase.categorical"),
    "other_columns": (lambda f: f.assign(extra=1.0), "'extra' (1 of 2 sites)"),
}
GOOD = (
    "usecase=tabular_classification",
    "usecase.target=y",
    "usecase.classes=[n,p]",
    "usecase.categorical=[sex]",
    "data.sites=[a.csv,b.csv]",
    "rounds=1",
)


@pytest.mark.parametrize("case", FRAMES)
def test_csv_that_does_not_fit_is_one_line(call, case):
    edit, says = FRAMES[case]
    edit(_frame(1)).to_csv("b.csv", index=False)
    assert_refused(call("fl-server", *GOOD), says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "b.csv does not exist"),
        (b"", "b.csv is empty"),
        (b"\n\n", "b.csv is empty"),
        (b"\x00\x01\x02" * 50, "binary file"),
        (b"x1,x2,sex,y\n1,2,f\n", "row 2 has 3 values"),
        (b"x1;x2;sex;y\n1;2;f;n\n", "separated by ';'"),
        (b"x1,x1,sex,y\n1,2,f,n\n", "column 'x1' stands twice"),
        (b"x1,x2,sex,y\n1,2,\xff\xfe,n\n" * 3, "not UTF-8"),
    ],
)
def test_file_that_is_no_csv_is_one_line(call, content, says):
    Path("b.csv").unlink()
    if content is not None:
        Path("b.csv").write_bytes(content)
    ended = call("fl-server", *GOOD)
    assert_refused(ended, "site 'b': ", says)


def test_folder_or_other_kind_of_file_is_one_line(call):
    Path("c").mkdir()
    Path("d.xlsx").write_text("x")
    assert_refused(call("fl-server", *GOOD, "data.sites=[a.csv,c]"), "c is a directory")
    assert_refused(call("fl-server", *GOOD, "data.sites=[a.csv,d.xlsx]"), "expected .csv")


def test_same_name_twice_is_one_line(call):
    ended = call("fl-server", *GOOD, "data.sites=[a.csv,b.csv,a.csv]")
    assert_refused(ended, "two sites are called 'a'", "different names")


def test_holdout_with_other_columns_is_one_line(call):
    _frame(3).drop(columns="x2").to_csv("h.csv", index=False)
    ended = call("fl-server", *GOOD, "data.sites=[{name:a,train:a.csv,holdout:h.csv},b.csv]")
    assert_refused(ended, "h.csv, row 1: column 'x2' is missing")


def test_column_without_a_value_anywhere_is_one_line(call):
    for name in "ab":
        _frame(1).assign(x2=np.nan).to_csv(f"{name}.csv", index=False)
    assert_refused(call("fl-server", *GOOD), "column 'x2' has no value at any site")


def test_one_class_everywhere_is_one_line(call):
    for name in "ab":
        _frame(1).assign(y="n").to_csv(f"{name}.csv", index=False)
    assert_refused(call("fl-server", *GOOD), "one class only ('n')")


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda f: f.assign(y="n"), "b: the training rows have one class only: 'n'"),
        (lambda f: f.assign(x2=np.nan), "b: column 'x2' has no value; the global mean is used"),
    ],
)
def test_odd_but_usable_site_takes_part_and_is_told(call, edit, told):
    edit(_frame(1)).to_csv("b.csv", index=False)
    ended = call("fl-server", *GOOD, "hydra.run.dir=run")
    assert ended.code == 0
    assert told in ended.out
    result = json.loads(Path("run/result.json").read_text())
    assert [s["status"] for s in result["rounds"][1]["sites"]] == ["ok"] * 4


# ------------------------------------------------------------------ files of a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished run of one round, made once."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed, name in enumerate("ab"):
            _frame(seed).to_csv(f"{name}.csv", index=False)
        GlobalHydra.instance().clear()
        patch.setattr(sys, "argv", ["fl-server", *GOOD, "board.url=null", "hydra.run.dir=run"])
        server_cli.main()
    return folder / "run"


@pytest.fixture
def run(finished, folder) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, folder / "run"))


def test_run_without_one_good_round_is_an_error_that_keeps_its_result(call, folder):
    ended = call("fl-server", *GOOD, "train.lr=1e30", "rounds=2", "hydra.run.dir=lost")
    assert (ended.code, len(ended.err.strip().splitlines())) == (2, 1)
    assert "none of 2 rounds succeeded" in ended.err
    assert "lower train.lr" in ended.err
    result = json.loads((folder / "lost/result.json").read_text())
    assert [r["status"] for r in result["rounds"]] == ["ok", "diverged", "diverged"]


def test_weights_that_do_not_fit_are_one_line(call):
    save_file({"w": np.zeros((2, 2), dtype=np.float32)}, "w.safetensors")
    Path("rubbish.safetensors").write_bytes(b"rubbish")
    for file, says in (("w", "does not fit the model"), ("rubbish", "not a safetensors file")):
        assert_refused(call("fl-server", *GOOD, f"initial_weights={file}.safetensors"), says)


@pytest.mark.parametrize("damage", ["empty", "half", "flip_state", "flip_array", "text"])
def test_damaged_checkpoint_is_one_line(call, run, damage):
    path = run / checkpoint.FILE_NAME
    data = bytearray(path.read_bytes())
    if damage == "half":
        data = data[: len(data) // 2]
    elif damage == "flip_state":  # a digit of a recorded metric
        position = data.index(b"accuracy") + 14
        data[position] = ord("7") if data[position] != ord("7") else ord("6")
    elif damage == "flip_array":
        data[-1] ^= 0xFF
    else:
        data = bytearray(b"" if damage == "empty" else b"hello" * 9)
    path.write_bytes(bytes(data))
    same = ("board.url=null", "rounds=2", "resume=true", "hydra.run.dir=run")
    ended = call("fl-server", *GOOD, *same)
    assert_refused(ended, "checkpoint.safetensors: damaged", "delete it and start anew")


def test_resume_with_other_settings_is_one_line(call, run):
    ended = call("fl-server", *GOOD, "train.lr=0.5", "resume=true", "hydra.run.dir=run")
    assert_refused(ended, "same overrides")


def _predict(call, *extra):
    return call("fedleague", "predict", "--run", "run", "--data", "a.csv", "--out", "p.csv", *extra)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda: _frame(0).drop(columns="x2").to_csv("a.csv"), "column 'x2' is missing"),
        (lambda: Path("a.csv").unlink(), "a.csv: no such file; give --data"),
        (lambda: Path("a.csv").write_text(""), "a.csv is empty"),
        (lambda: shutil.rmtree("run"), "run/model.json: no such file; give the folder"),
        (lambda: Path("run/model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda: Path("run/model.safetensors").write_bytes(b"x"), "model.safetensors: damaged"),
        (lambda: Path("run/model.json").write_text("{"), "model.json: cannot be read"),
        (lambda: Path("run/model.json").write_text("[]"), "model.json: damaged"),
        (lambda: Path("run/model.json").write_text("{}"), "model.json: damaged"),
        (
            lambda: save_file({"w": np.zeros(2, np.float32)}, "run/model.safetensors"),
            "does not fit model.json",
        ),
        (lambda: Path("p.csv").mkdir(), "p.csv: cannot be written"),
    ],
)
def test_predict_that_cannot_is_one_line(call, run, prepare, says):
    prepare()
    assert_refused(_predict(call), "fedleague: ", says)


def test_predict_below_a_file_is_one_line(call, run):
    assert_refused(_predict(call, "--out", "b.csv/p.csv"), "b.csv/p.csv: cannot be written")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"score": 5}'])
def test_show_of_no_result_is_one_line(call, content):
    Path("run").mkdir()
    if content is not None:
        Path("run/result.json").write_text(content)
    assert_refused(call("fedleague", "show", "run"), "run/result.json: ")


def test_board_of_no_database_is_one_line(call):
    ended = call("fedleague", "board", "--db", "sqlite:///nothing.sqlite", "--port", "0")
    assert_refused(ended, "sqlite:///nothing.sqlite: no such file")


@pytest.mark.parametrize(
    ("site", "usecase", "says"),
    [
        (None, "breast_cancer", "site.yaml: no such file"),
        ("name: [", "breast_cancer", "site.yaml: not valid YAML"),
        ("name: a\ndata: {train: a.csv}\n", "brest_cancer", "did you mean usecase=breast_cancer?"),
        ("name: a\ndata: {train: a.csv}\n", "breast_cancer", "column 'diagnosis' is missing"),
        ("name: a\ndata: {train: a.csv}\n", "tabular_regression", "usecase.target must be given"),
        ("name: a\ndata: {train: z.csv}\n", "breast_cancer", "z.csv does not exist"),
        (
            "name: a\ndata: {train: a.csv}\npolicy: {min_rows: x}\n",
            "breast_cancer",
            "policy.min_rows",
        ),
    ],
)
def test_check_names_what_is_wrong(call, site, usecase, says):
    if site is not None:
        Path("site.yaml").write_text(site)
    ended = call("fedleague", "check", "--site", "site.yaml", "--usecase", usecase)
    assert_refused(ended, "fedleague: ", says)


# ------------------------------------------------------------------ machine


def test_columns_of_text_are_named_all_at_once_ready_to_paste(call, folder):
    frame = pd.read_csv("a.csv")
    frame["city of birth"] = ["x", "y"] * (ROWS // 2)
    for name in "ab":
        frame.to_csv(f"{name}.csv", index=False)
    options = [option for option in GOOD if "categorical" not in option]
    ended = call("fl-server", *options)
    assert_refused(ended, "'city of birth', 'sex' hold text", '["city of birth",sex]')


def test_path_from_the_command_line_is_corrected_there(call):
    ended = call("fl-server", *GOOD, "data.sites=[a.csv,gone.csv]")
    assert_refused(ended, "gone.csv does not exist; correct the path in data.sites")
    assert "site.yaml" not in ended.err


@pytest.mark.parametrize("team", ["28146592", "007", "1e5", "Zürich", "東京"])
def test_team_is_text_whatever_it_looks_like(call, folder, team):
    ended = call(
        *("fl-server", *GOOD, "board.url=null", "hydra.run.dir=run", f"submission.team={team}")
    )
    assert ended.code == 0, ended.err
    assert json.loads((folder / "run/result.json").read_text())["team"] == team


def test_port_in_use_is_one_line(call):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = call("fl-server", *GOOD, "board.serve=true", f"board.port={port}")
        assert_refused(ended, str(port))


def test_disk_that_fills_up_is_one_line(call, monkeypatch):
    sync, calls = files.os.fsync, []

    def full(descriptor):
        """Take the configuration and its folder, and nothing after them."""
        calls.append(descriptor)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    ended = call("fl-server", *GOOD, "board.url=null", "hydra.run.dir=run")
    assert_refused(ended, "no space left on the disk", "fl-server resume=")


@pytest.mark.slow
def test_really_full_disk_is_one_line_and_the_run_goes_on_later(folder):
    """A file system of 48 kB: the run stops in one line, and resumes when there is room."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        options = [*GOOD, "model.params.hidden=[32]", "hydra.run.dir=disk/run", "board.url=null"]
        ballast = disk / "ballast"
        ballast.write_bytes(b"0" * 40_000)
        done = _fl_server(folder, *options)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert "no space left on the disk" in done.stderr
        assert not (disk / "run").exists() or not any((disk / "run").glob("*.part"))
        ballast.unlink()
        assert _fl_server(folder, *options).returncode == 0
    finally:
        subprocess.run(["umount", str(disk)], check=False, capture_output=True)


def _fl_server(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fl_server.cli", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["usecase=breast_cancr"], "did you mean usecase=breast_cancer?"),
        (["train.optimizer=foo"], "train.optimizer 'foo'"),
    ],
)
def test_real_process_ends_with_code_2_and_one_line(folder, options, says):
    before = _tree(folder)
    done = _fl_server(folder, *options)
    assert_refused(Ended(done.returncode, done.stderr, done.stdout, _tree(folder) - before), says)


# ------------------------------------------------------------------ fl-client

CLIENT = [
    ("", "site must be given"),
    ("site=site.yaml", "server must be given"),
    ("sitee=site.yaml", "unknown option 'sitee'; did you mean site=...?"),
    ("site=nowhere.yaml server=127.0.0.1:1", "nowhere.yaml: no such file"),
    ("site=5 server=127.0.0.1:1", "5: no such file"),
    ("site=broken.yaml server=127.0.0.1:1", "broken.yaml: key 'name' is missing"),
    ("site=lost.yaml server=127.0.0.1:1", "lost.csv does not exist"),
    ("site=site.yaml server=nonsense insecure=true", "expected HOST:PORT"),
    ("site=site.yaml server=127.0.0.1:99999 insecure=true", "expected HOST:PORT"),
    ("site=site.yaml server=127.0.0.1:1 threads=abc", "threads must be a whole number"),
    ("site=site.yaml server=127.0.0.1:1 threads=0", "threads must be a whole number"),
    ("site=site.yaml server=127.0.0.1:1 insecure=abc", "insecure must be true or false"),
    ("site=site.yaml server=127.0.0.1:1 max_wait_seconds=abc", "max_wait_seconds must be"),
    ("site=site.yaml server=127.0.0.1:1 ca=nope.pem", "nope.pem: no such CA file"),
    ("site=site.yaml server=127.0.0.1:1 insecure=true key=nope.key", "nope.key"),
    ("site=site.yaml server=127.0.0.1:1 insecure=true max_wait_seconds=0.2", "no answer within"),
]


@pytest.mark.parametrize(("options", "says"), CLIENT, ids=[options for options, _ in CLIENT])
def test_client_that_cannot_start_is_one_line(call, options, says):
    Path("site.yaml").write_text("name: a\ndata: {train: a.csv}\n")
    Path("lost.yaml").write_text("name: a\ndata: {train: lost.csv}\n")
    Path("broken.yaml").write_text("data: {train: a.csv}\n")
    with suppress(FileNotFoundError):
        Path("a.jsonl").unlink()
    assert_refused(call("fl-client", *options.split()), "fl-client: ", says)
