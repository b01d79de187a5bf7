"""Cut a shared table into one site's splits, as a simulation would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fl_common.errors import ConfigError
from tasks.contract import DataSource
from tasks.tabular.data import site_positions
from tasks.tabular.files import DATASET
from tasks.tabular.schema import TabularSchema


def site_frames(
    source: DataSource, split_seed: int, schema: TabularSchema
) -> dict[str, pd.DataFrame]:
    """Return each split that ``read_site`` would make, with every column of its rows.

    Raises
    ------
    ConfigError
        If the source is not a ``dataset:NAME``.
    """
    if not source.train.startswith(DATASET):
        raise ConfigError(f"{source.train} is a file already; only bundled tables can be exported")
    from tasks.tabular.datasets import load_dataset

    frame = load_dataset(source.train.removeprefix(DATASET))
    drawn = site_positions(source, split_seed, schema)
    return {
        split: frame.iloc[np.asarray(rows)]
        for split, rows in zip(drawn._fields, drawn, strict=True)
        if len(rows)
    }


def export_site(
    source: DataSource, split_seed: int, schema: TabularSchema, folder: Path
) -> dict[str, str]:
    """Write each split below ``folder`` as a CSV file; return their names."""
    frames = site_frames(source, split_seed, schema)
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return {name: f"{name}.csv" for name in frames}
