"""docs/strategies.md: the table is the shelf, and its own strategy runs as printed."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from quadratic_task import GRADIENT_DESCENT, assert_iterates, descend, minima, random_sites

from fl_server.config.compose import compose_overrides
from fl_server.config.instantiation import make_strategy
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulation import InProcessGrid
from strategies.registry import client_update, personaliser
from strategies.requirements import needs_single_updates

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
SHELF = sorted(
    path.stem
    for path in (ROOT / "conf" / "strategy").glob("*.yaml")
    if not path.stem.startswith("flwr_")
    and yaml.safe_load(path.read_text())["_target_"].startswith("strategies.")
    and "xgb" not in path.stem
)


def block(language, number=0):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)[number]


@pytest.fixture
def walk_through(tmp_path, monkeypatch):
    (tmp_path / "momentum_scaffold.py").write_text(block("python"))
    folder = tmp_path / "config" / "strategy"
    folder.mkdir(parents=True)
    (folder / "momentum_scaffold.yaml").write_text(block("yaml"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)  # a module in the working folder may be named
    monkeypatch.delitem(sys.modules, "momentum_scaffold", raising=False)
    client_update.cache_clear()
    personaliser.cache_clear()
    yield tmp_path
    client_update.cache_clear()
    personaliser.cache_clear()
    sys.modules.pop("momentum_scaffold", None)


def test_walk_through_is_short():
    assert len(block("python").strip().splitlines()) < 60


def test_walk_through_does_what_it_says(walk_through, federation):
    from momentum_scaffold import MomentumScaffold

    sites = random_sites(rows=10)
    x, momentum, c, own = np.zeros(4), np.zeros(4), np.zeros(4), [np.zeros(4)] * 5
    iterates, config = [x], GRADIENT_DESCENT
    for _ in range(8):
        models = [descend(s, x, linear=c - ci) for s, ci in zip(sites, own, strict=True)]
        new = [
            ci - c + (x - y) / (config.local_steps * config.lr)
            for ci, y in zip(own, models, strict=True)
        ]
        c = c + np.mean(np.array(new) - np.array(own), axis=0)
        momentum = 0.5 * momentum + np.mean(models, axis=0) - x
        x, own = x + momentum, new
        iterates.append(x)
    assert_iterates(federation(MomentumScaffold(beta=0.5, **minima()), sites, rounds=8), iterates)


def test_walk_through_runs_as_printed(walk_through):
    options = block("text", -1).split()[3:]
    search = f"hydra.searchpath=[file://{walk_through / 'config'}]"
    config = compose_overrides([search, *options, "board.url=null"], walk_through / "run")
    assert config.strategy_name == "momentum_scaffold"
    outcome = execute(InProcessGrid(config.site_data), config)
    assert [record.status for record in outcome.rounds] == ["ok"] * 6
    assert outcome.rounds[-1].score > outcome.rounds[0].score


def test_table_lists_the_whole_shelf():
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(SHELF) <= names


@pytest.mark.parametrize("name", SHELF)
def test_table_says_which_strategies_see_single_updates(name):
    """From the YAML: it makes its strategy, and the table's last column is true."""
    config = compose_overrides([f"strategy={name}", "runtime=deployment"])
    strategy = make_strategy(config.strategy)
    row = next(line for line in TEXT.splitlines() if line.startswith("| `") and f"`{name}`" in line)
    streaming = row.split("|")[-2].strip()
    assert needs_single_updates(strategy) == (streaming != "yes")
    assert strategy.min_available_nodes == 1  # the round loop waits for sites, not Flower
