"""Write a use case's simulated sites to disk, so that a deployment can be tried with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from tasks.contract import DataSource, ExportsSites
from tasks.registry import load_task

NAMED = "dataset:"


def write_sites(usecase: str, overrides: list[str], out: Path) -> list[Path]:
    """Write ``OUT/<site>/site.yaml`` and beside it the simulation's splits.

    Tables become CSV files; pictures a folder with a CSV manifest (classes), COCO JSON (boxes) or
    masks. A site's folder appears whole or not at all.

    Raises
    ------
    ConfigError
        If the use case has no data set of its own, or a folder exists already or cannot be written.
    """
    config = compose_overrides([f"usecase={usecase}", *overrides])
    task = load_task(config.usecase.task, config.schema)
    if not isinstance(task, ExportsSites):
        raise ConfigError(f"sites of the task '{config.usecase.task}' cannot be exported")
    sources = {out / source.name: _named(source) for source in config.sources}
    for folder in sources:
        if folder.exists():
            raise ConfigError(f"{folder} exists already; give another --out")
    for folder, source in sources.items():
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            data = task.export(source, config.split_seed, partial)
            _describe(source.name, data, partial / "site.yaml")
            partial.rename(folder)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error.strerror or error})") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return list(sources)


def _describe(name: str, data: dict[str, str], path: Path) -> None:
    content = {
        "name": name,
        "data": data,
        "policy": {"min_rows": 5, "min_group_size": 5},
        "audit": "audit.jsonl",
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _named(source: DataSource) -> DataSource:
    if not source.train.startswith(NAMED):
        raise ConfigError(
            f"{source.train} is a site's own already; only data sets by name (data.dataset) are "
            "exported"
        )
    return source
