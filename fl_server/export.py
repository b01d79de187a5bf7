"""Write a use case's simulated sites to disk, so that a deployment can be tried with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fl_server.compose import compose_overrides
from tasks.contract import DataSource, Partition
from tasks.errors import ConfigError
from tasks.tabular.export import site_frames
from tasks.tabular.schema import TabularSchema

TABULAR = {"tabular_classification": True, "tabular_regression": False}


def write_sites(usecase: str, overrides: list[str], out: Path) -> list[Path]:
    """Write ``OUT/<site>/{train.csv,holdout.csv,site.yaml}``; the rows are the simulation's.

    Raises
    ------
    ConfigError
        If the use case has no bundled table, or a folder exists already.
    """
    config = compose_overrides([f"usecase={usecase}", *overrides])
    if config.usecase.task not in TABULAR:
        raise ConfigError(f"use case '{usecase}' is not tabular; its sites cannot be exported")
    schema = TabularSchema.from_mapping(config.schema, classification=TABULAR[config.usecase.task])
    folders = []
    for site in config.site_data:
        folder = out / str(site["name"])
        if folder.exists():
            raise ConfigError(f"{folder} exists already; give another --out")
        frames = site_frames(_source(site), config.split_seed, schema)
        folder.mkdir(parents=True)
        for name, frame in zip(("train", "holdout"), frames, strict=True):
            frame.to_csv(folder / f"{name}.csv", index=False)
        content = {
            "name": site["name"],
            "data": {"train": "train.csv", "holdout": "holdout.csv"},
            "policy": {"min_rows": 5, "min_group_size": 5},
            "audit": "audit.jsonl",
        }
        (folder / "site.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        folders.append(folder)
    return folders


def _source(site: Any) -> DataSource:
    data = dict(site["data"])
    partition = data.pop("partition", None)
    part = Partition(**partition) if partition else None
    return DataSource(name=site["name"], partition=part, **data)
