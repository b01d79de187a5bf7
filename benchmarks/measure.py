"""Run one side of a comparison in a process of its own; its time, its memory, a table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
# a script's folder comes first, where strategies.py would hide the package of that name
sys.path[:] = [p for p in sys.path if Path(p).resolve() != HERE] + [str(HERE.parent), str(HERE)]
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # no worker is killed because others fill the memory
}
SAMPLE_SECONDS = 0.25


def run_side(script: str, side: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``script --side SIDE`` and return what it reported, with the memory of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, script, "--side", side, "--report", str(report)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        log = Path(folder) / "log.txt"
        with log.open("w") as sink:
            child = subprocess.Popen(
                command, env=os.environ | QUIET, stdout=sink, stderr=subprocess.STDOUT
            )
            peak = 0.0
            while child.poll() is None:
                peak = max(peak, tree_megabytes(child.pid))
                time.sleep(SAMPLE_SECONDS)
        if child.returncode or not report.is_file():
            sys.exit(f"{side} failed:\n{log.read_text()[-4000:]}")
        return {"side": side, **json.loads(report.read_text()), "peak_mb": round(peak, 1)}


def tree_megabytes(root: int) -> float:
    """Return the memory of a process and its descendants; shared pages count once (PSS)."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    todo, total = [root], 0
    while todo:
        process = todo.pop()
        todo += children.get(process, [])
        total += _proportional_kilobytes(process)
    return total / 1024


def _proportional_kilobytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def write_report(path: str, values: Mapping[str, Any]) -> None:
    """Hand a side's numbers to the parent process."""
    Path(path).write_text(json.dumps(values))


def show(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table; ``columns`` are pairs of key and heading."""
    table = Table(title=title)
    for _, heading in columns:
        table.add_column(heading, justify="left" if heading == columns[0][1] else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key, _ in columns))
    Console(width=max(Console().width, 100)).print(table)


def save(name: str, rows: Sequence[Mapping[str, Any]], out: Path | None = None) -> Path:
    """Write the rows and what they were measured on to ``results/NAME.json``."""
    path = (out or RESULTS) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "flwr": version("flwr"),
        "torch": version("torch"),
        "date": datetime.now(UTC).date().isoformat(),
    }
    path.write_text(json.dumps({"machine": machine, "rows": list(rows)}, indent=2) + "\n")
    return path


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6f}" if 0 < value < 1 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
