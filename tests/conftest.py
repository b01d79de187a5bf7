"""Shared fixtures: small sites on disk, composed configurations, quiet logs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import numpy as np
import pandas as pd
import pytest
import torch

from fl_server.config.compose import compose_overrides
from fl_server.config.run_config import RunConfig

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slow tests: at the end one of two workers would wait for the other."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models: one thread is faster and leaves the other core to the other test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def heart_disease() -> Path:
    """Folder of the real UCI files; skips where it is absent."""
    folder = SHARED_DATA / "heart_disease"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not on this machine")
    return folder


def classification_frame(rows: int, seed: int) -> pd.DataFrame:
    """Two informative numbers, one category, a noisy class `y` in {n, p}."""
    rng = np.random.default_rng(seed)
    x1, x2 = rng.normal(size=rows), rng.normal(5, 3, size=rows)
    sex = rng.choice(["f", "m"], size=rows)
    logit = 2 * x1 - 0.5 * (x2 - 5) + (sex == "m") + rng.normal(size=rows)
    y = np.where(logit > 0, "p", "n")
    y[:2] = ["n", "p"]
    return pd.DataFrame({"x1": x1, "x2": x2, "sex": sex, "y": y})


@pytest.fixture
def csv_sites(tmp_path: Path) -> list[Path]:
    """Three sites of 60, 40 and 50 rows."""
    paths = []
    for name, rows, seed in (("a", 60, 1), ("b", 40, 2), ("c", 50, 3)):
        path = tmp_path / f"{name}.csv"
        classification_frame(rows, seed).to_csv(path, index=False)
        paths.append(path)
    return paths


Install = Callable[..., Path]


@pytest.fixture
def install_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a small package, with its entry points, into a folder of its own on ``sys.path``."""
    from strategies.registry import client_update, personaliser
    from tasks.tabular.datasets import load_dataset

    def forget() -> None:
        for cache in (client_update, personaliser, load_dataset):
            cache.cache_clear()

    modules: list[str] = []

    def install(package: str, entries: dict[str, dict[str, str]], **sources: str) -> Path:
        folder = tmp_path / f"site-packages-{package}"
        info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        sections = (
            f"[fedleague.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items())
            for group, named in entries.items()
        )
        (info / "entry_points.txt").write_text("\n".join(sections))
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source)
            modules.append(name)
        monkeypatch.syspath_prepend(folder)
        forget()
        return folder

    yield install
    forget()
    for name in modules:
        sys.modules.pop(name, None)


Compose = Callable[..., RunConfig]


@pytest.fixture
def compose(csv_sites: list[Path], tmp_path: Path) -> Compose:
    """Compose a small run on the three CSV sites; overrides as on the command line."""

    def make(*overrides: str, folder: str = "run") -> RunConfig:
        names = ",".join(str(path) for path in csv_sites)
        base = [
            "usecase=tabular_classification",
            "usecase.target=y",
            "usecase.classes=[n,p]",
            "usecase.categorical=[sex]",
            f"data.sites=[{names}]",
            "model.params.hidden=[8]",
            "rounds=3",
            "train.lr=0.02",
            "train.local_epochs=3",
            "board.url=null",
        ]
        return compose_overrides([*base, *overrides], tmp_path / folder)

    return make
