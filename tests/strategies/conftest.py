"""The quadratic federation: convex, exact, and driven through the real updates of both sides."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from quadratic_task import Federation

from tasks import registry


@pytest.fixture(autouse=True)
def quadratic_task(monkeypatch):
    monkeypatch.setitem(registry._TASKS, "quadratic", "quadratic_task:QuadraticTask")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Hundreds of small checkpoints; what is on disk after a crash is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def federation(tmp_path):
    """Run strategies on quadratic sites: ``federation(strategy, sites, rounds=...)``."""
    return Federation(tmp_path)
