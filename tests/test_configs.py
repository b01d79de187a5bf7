"""Every YAML in conf/ composes, freezes, and says what it is for."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from flwr.serverapp.strategy import Strategy

from fl_server.commands.usecases import list_usecases
from fl_server.config.compatibility import check_run
from fl_server.config.compose import compose_overrides
from fl_server.config.instantiation import make_strategy
from fl_server.config.run_config import (
    BoardConfig,
    DeploymentRuntime,
    EarlyStopping,
    RayRuntime,
    RunConfig,
    SimulationRuntime,
    SitesConfig,
    Submission,
)
from fl_server.config.sources import DataConfig
from fl_server.config.usecase import check_metric
from strategies.wire.compression import Compression
from tasks.contract import Partition, TrainConfig

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = sorted(p.name for p in CONF.iterdir() if p.is_dir() and not p.name.startswith("_"))


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


NEEDED = {
    "tabular_classification": ["usecase.target=y", "usecase.classes=[n,p]"],
    "tabular_regression": ["usecase.target=y"],
}


def overrides(usecase: str) -> list[str]:
    """What a use case cannot do without."""
    raw = yaml.safe_load((CONF / "usecase" / f"{usecase}.yaml").read_text())
    needed = list(NEEDED.get(usecase, []))
    for key, value in raw["usecase"].items():
        if value == "???" and not any(o.startswith(f"usecase.{key}=") for o in needed):
            needed.append(f"usecase.{key}=" + ("[n,p]" if key == "classes" else "y"))
    if not (raw.get("data") or {}).get("dataset") and not (raw.get("data") or {}).get("sites"):
        needed.append("data.sites=[a.csv,b.csv]")
    return [f"usecase={usecase}", *needed]


TABULAR = [
    usecase
    for usecase in names("usecase")
    if yaml.safe_load((CONF / "usecase" / f"{usecase}.yaml").read_text())["usecase"][
        "task"
    ].startswith("tabular")
]


@pytest.mark.parametrize("usecase", names("usecase"))
def test_usecase_composes_and_its_score_exists(usecase, tmp_path):
    run = compose_overrides(overrides(usecase), tmp_path)
    assert run.usecase.slug == usecase
    for path in (run.usecase.score.name, *run.usecase.extra_columns):
        check_metric(path, run.metrics, run.schema)
    assert run.usecase.title
    assert usecase in {entry.slug for entry in list_usecases()}


@pytest.mark.parametrize("usecase", TABULAR)
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_tabular_usecase_takes_every_tabular_model(usecase, model, tmp_path):
    check_run(compose_overrides([*overrides(usecase), f"model={model}"], tmp_path))


@pytest.mark.parametrize("group", ["partition", "runtime", "sampling"])
@pytest.mark.parametrize("usecase", TABULAR[:2])
def test_usecase_composes_with_every_member_of_a_group(group, usecase, tmp_path):
    if group not in GROUPS:
        pytest.skip(f"no conf/{group}")
    for name in names(group):
        extra = ["partition.column=diagnosis"] if name == "column" else []
        run = compose_overrides([*overrides(usecase), f"{group}={name}", *extra], tmp_path)
        assert run.resolved[group] is not None


@pytest.mark.parametrize("strategy", names("strategy"))
def test_strategy_composes_and_instantiates(strategy, tmp_path):
    run = compose_overrides(["usecase=breast_cancer", f"strategy={strategy}"], tmp_path)
    assert run.strategy_name == strategy
    assert isinstance(make_strategy(run.strategy), Strategy)


@pytest.mark.parametrize(
    ("group", "kind", "own"),
    [
        ("train", TrainConfig, {"dp"}),  # privacy=local_dpsgd sets it
        ("sites", SitesConfig, set()),
        ("early_stopping", EarlyStopping, set()),
        ("board", BoardConfig, set()),
        ("submission", Submission, set()),
        ("data", DataConfig, set()),
        ("partition", Partition, {"num_sites", "index"}),
        ("compression", Compression, set()),
    ],
)
def test_every_option_is_a_field_of_its_type(group, kind, own, tmp_path):
    offered = compose_overrides(["usecase=breast_cancer"], tmp_path).resolved[group]
    assert offered.keys() == {f.name for f in fields(kind)} - own


def test_every_key_of_the_server_is_a_field(tmp_path):
    run = compose_overrides(["usecase=breast_cancer"], tmp_path)
    made = {"schema", "metrics", "sources", "resolved", "folder", "strategy_name", "shipped"}
    assert run.resolved.keys() == {f.name for f in fields(RunConfig)} - made


@pytest.mark.parametrize("kind", [SimulationRuntime, RayRuntime, DeploymentRuntime])
def test_every_runtime_offers_what_its_type_has(kind):
    given = yaml.safe_load((CONF / f"runtime/{kind().name}.yaml").read_text())
    assert given.keys() == {f.name for f in fields(kind)}


SELF_EXPLANATORY = {
    "train", "submission", "data", "sites", "early_stopping", "board", "hydra", "usecase",
    "momentum", "weight_decay", "batch_size", "local_epochs", "lr", "host", "port",
}  # fmt: skip


@pytest.mark.parametrize("file", ["server.yaml", "client.yaml"])
def test_every_key_says_what_it_does(file):
    """A comment on its line or the line above; groups and textbook names need none."""
    text = (CONF / file).read_text().partition("\nhydra:")[0]
    lines = text.splitlines()
    bare = []
    for i, line in enumerate(lines):
        found = re.match(r"\s*-?\s*([a-z_]+):", line)
        if found is None or found.group(1) in SELF_EXPLANATORY | {"defaults"}:
            continue
        above = lines[i - 1].strip() if i else ""
        if "#" not in line and not above.startswith("#") and "override" not in line:
            bare.append(line.strip())
    assert bare == []


@pytest.mark.parametrize(
    "path", sorted(CONF.rglob("*.yaml")), ids=lambda p: str(p.relative_to(CONF))
)
def test_every_file_starts_by_saying_what_it_is(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("#")
    first = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert len(first) > 12


def test_every_file_ends_up_in_the_wheel():
    import tomllib

    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())
    assert "**/*.yaml" in project["tool"]["setuptools"]["package-data"]["conf"]
    assert (CONF / "__init__.py").is_file()
