"""What a person sees of a multirun: which job is which, and a table of all at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from fl_common.terminal import console, say


@dataclass(frozen=True)
class JobEnd:
    """How one job of a multirun ended."""

    number: int
    overrides: tuple[str, ...]
    folder: Path
    baseline: float | None = None
    final: float | None = None
    objective: float | None = None
    """What Hydra's sweepers choose by."""
    reason: str = ""
    """Why it failed; empty if it did not."""


def announce(number: int, overrides: Sequence[str]) -> None:
    """Say which job begins."""
    say(f"\njob {number}: {' '.join(overrides)}")


def print_summary(jobs: Sequence[JobEnd]) -> None:
    """Print a line for each job, with the overrides in which it differs from the others."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    table = Table(title="all jobs")
    table.add_column("job", justify="right")
    table.add_column("overrides")
    for name in ("out of the box", "after fine-tuning"):
        table.add_column(name, justify="right")
    table.add_column("folder, or why it failed", overflow="fold")
    for job in jobs:
        table.add_row(
            str(job.number),
            " ".join(text for text in job.overrides if text not in common),
            *("–" if score is None else f"{score:.4f}" for score in (job.baseline, job.final)),
            job.reason or str(job.folder),
        )
    console().print(table)
