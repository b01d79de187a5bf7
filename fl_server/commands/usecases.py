"""The use cases in ``conf/usecase``, as a person lists them and as a site checks against them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from fl_server.config.compose import compose_overrides
from strategies.wire.job import Job


@dataclass(frozen=True)
class Entry:
    """One line of ``fedleague usecases``."""

    slug: str
    task: str
    score: str
    title: str


def list_usecases() -> list[Entry]:
    """Return every use case that ships with the package, by name."""
    entries = []
    for file in sorted(files("conf").joinpath("usecase").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            raw: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))["usecase"]
            slug = file.name.removesuffix(".yaml")
            entries.append(Entry(slug, raw["task"], _score(raw["score"]), raw["title"]))
    return entries


def _score(raw: Any) -> str:
    """Return a score as a person reads it; a metric of ours needs no direction."""
    if not isinstance(raw, dict):
        return str(raw)
    return f"{raw['name']} ({raw['direction']})" if "direction" in raw else str(raw["name"])


def print_usecases(console: Console) -> None:
    """Print every use case as a table."""
    table = Table()
    for name in ("use case", "task", "score"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", overflow="fold")
    for entry in list_usecases():
        table.add_row(entry.slug, entry.task, entry.score, entry.title)
    console.print(table)


def job_of(usecase: str, overrides: list[str]) -> Job:
    """Return what a server would ask of a site in this use case."""
    return compose_overrides([f"usecase={usecase}", "runtime=deployment", *overrides]).job()
