"""Shared fixtures: small sites on disk, composed configurations, quiet logs."""

from __future__ import annotations

import os
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
