"""Write a use case's simulated sites to disk, so that a deployment can be tried with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fl_common.errors import ConfigError
from fl_server.config.compose import compose_overrides
from fl_server.config.run_config import RunConfig
from tasks.contract import DataSource, ExportsSites, Partition
from tasks.registry import load_task
from tasks.tabular.export import site_frames
from tasks.tabular.schema import TabularSchema

TABULAR = {"tabular_classification": True, "tabular_regression": False}
NAMED = "dataset:"

Writer = Callable[[DataSource, Path], dict[str, str]]
"""Writes a source below a folder; returns the files of its splits, as in ``site.yaml``."""


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
    write = _tables(config) if config.usecase.task in TABULAR else _pictures(config)
    sources = {out / str(site["name"]): _source(site) for site in config.site_data}
    for folder in sources:
        if folder.exists():
            raise ConfigError(f"{folder} exists already; give another --out")
    for folder, source in sources.items():
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _describe(source.name, write(source, partial), partial / "site.yaml")
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


def _tables(config: RunConfig) -> Writer:
    schema = TabularSchema.from_mapping(config.schema, classification=TABULAR[config.usecase.task])

    def write(source: DataSource, folder: Path) -> dict[str, str]:
        frames = site_frames(source, config.split_seed, schema)
        for name, frame in frames.items():
            frame.to_csv(folder / f"{name}.csv", index=False)
        return {name: f"{name}.csv" for name in frames}

    return write


def _pictures(config: RunConfig) -> Writer:
    task = load_task(config.usecase.task, config.schema)
    if not isinstance(task, ExportsSites):
        raise ConfigError(f"sites of the task '{config.usecase.task}' cannot be exported")
    exporter: ExportsSites = task  # a closure forgets what was found out about ``task``

    def write(source: DataSource, folder: Path) -> dict[str, str]:
        return exporter.export(task.read(source, config.split_seed), folder)

    return write


def _source(site: Any) -> DataSource:
    data = dict(site["data"])
    partition = data.pop("partition", None)
    part = Partition(**partition) if partition else None
    source = DataSource(name=site["name"], partition=part, **data)
    if not source.train.startswith(NAMED):
        raise ConfigError(
            f"{source.train} is a site's own already; only data sets by name (data.dataset) are "
            "exported"
        )
    return source
