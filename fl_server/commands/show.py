"""Print a finished run: ``fedleague show RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fl_common.errors import ConfigError
from fl_server.results.checkpoint import FILE_NAME as CHECKPOINT
from fl_server.results.columns import RoundColumns, columns_of
from fl_server.results.result import RESULT
from fl_server.results.saved_model import read_json
from tasks.scores import BLOCKS, OVERALL, SUBGROUPS, MetricPath


def print_result(folder: Path, console: Console) -> None:
    """Print score, metrics and rounds of a run folder.

    Raises
    ------
    ConfigError
        If the folder holds no result, or a damaged one.
    """
    result = read_result(folder)
    try:
        score = result["score"]
        title = (
            f"{result['usecase']}: {result['model']} with {result['strategy']}, "
            f"{score['name']} {_number(score['baseline'])} -> {_number(score['final'])}"
        )
        tables = [_metrics(result), _rounds(result)]
        absent = [f"absent: {name}: {reason}" for name, reason in result["absent"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{folder / RESULT}: not the result of a run ({type(error).__name__} {error}); "
            "give the folder of a finished run"
        ) from None
    console.print(title, markup=False, highlight=False)
    for table in tables:
        console.print(table)
    for line in absent:
        console.print(line, markup=False, highlight=False)


def read_result(folder: Path) -> dict[str, Any]:
    """Return what a run left in its ``result.json``.

    Raises
    ------
    ConfigError
        If there is none, or it is damaged.
    """
    if not (folder / RESULT).exists() and (folder / CHECKPOINT).exists():
        raise ConfigError(f"{folder}: not finished; go on with it: fl-server resume={folder}")
    result: dict[str, Any] = read_json(folder / RESULT)
    return result


def print_comparison(folders: Sequence[Path], console: Console) -> None:
    """Print several runs side by side: a column a run, after fine-tuning.

    Raises
    ------
    ConfigError
        If a folder holds no result, or a damaged one.
    """
    table = Table(title="after fine-tuning, on the pooled holdouts")
    table.add_column("")
    rows: dict[str, dict[Path, str]] = {}
    for folder in folders:
        result = read_result(folder)
        table.add_column(str(folder), justify="right", overflow="fold")
        try:
            score = result["score"]
            cells = {name: str(result[name]) for name in ("usecase", "model", "strategy", "seed")}
            cells["rounds"] = str(len(result["rounds"]) - 1)
            cells[f"{score['name']}, out of the box"] = _number(score["baseline"])
            final = _flat(result["metrics"]["final"])
            cells |= {name: _number(value) for name, value in final.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{folder / RESULT}: not the result of a run ({type(error).__name__} {error}); "
                "give the folder of a finished run"
            ) from None
        for name, cell in cells.items():
            rows.setdefault(name, {})[folder] = cell
    for name, by_folder in rows.items():
        table.add_row(name, *(by_folder.get(folder, "–") for folder in folders))
    console.print(table)


def _metrics(result: dict[str, Any]) -> Table:
    table = Table(title="metrics on the pooled holdouts")
    table.add_column("metric")
    for name in ("out of the box", "after fine-tuning", "bound"):
        table.add_column(name, justify="right")
    before, after = result["metrics"]["baseline"], result["metrics"]["final"]
    for path, value in _flat(after).items():
        old = _flat(before).get(path)
        bound = result["bounds"].get(path)
        table.add_row(path, _number(old), _number(value), "" if bound is None else f"± {bound:.2g}")
    return table


def _rounds(result: dict[str, Any]) -> Table:
    table = Table(title="rounds")
    table.add_column("round")
    shown = {
        name: column.label.lower()
        for name, column in columns_of(RoundColumns).items()
        if any(record.get(name) is not None for record in result["rounds"])
    }
    names = ("score", "train loss", "sites", "seconds", "MB up", "MB down")
    for name in (*names, *shown.values()):
        table.add_column(name, justify="right")
    for record in result["rounds"]:
        answered = [s for s in record["sites"] if s["phase"] == "evaluate" and s["status"] == "ok"]
        table.add_row(
            f"{record['round']} {record['phase']}",
            _number(record["score"]) if record["status"] == "ok" else record["status"],
            _number(record["train_loss"]),
            str(len(answered)),
            f"{record['seconds']:.2f}",
            f"{record['bytes_up'] / 1e6:.2f}",
            f"{record['bytes_down'] / 1e6:.2f}",
            *(_number(record.get(name)) for name in shown),
        )
    return table


def _flat(card: dict[str, Any]) -> dict[str, float]:
    flat = dict(card[OVERALL])
    for kind in (SUBGROUPS, BLOCKS):
        for group, values in card[kind].items():
            flat |= {str(MetricPath(f"{kind}/{group}", name)): v for name, v in values.items()}
    return flat


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
