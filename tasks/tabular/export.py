"""Cut a shared table into one site's training and holdout tables, as a simulation would."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fl_common.errors import ConfigError
from tasks.contract import DataSource
from tasks.tabular.data import site_positions
from tasks.tabular.files import DATASET
from tasks.tabular.schema import TabularSchema


def site_frames(
    source: DataSource, split_seed: int, schema: TabularSchema
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that ``read_site`` would train on and hold out, with every column.

    Raises
    ------
    ConfigError
        If the source is not a ``dataset:NAME``.
    """
    if not source.train.startswith(DATASET):
        raise ConfigError(f"{source.train} is a file already; only bundled tables can be exported")
    from tasks.tabular.datasets import load_dataset

    frame = load_dataset(source.train.removeprefix(DATASET))
    kept, held = site_positions(source, split_seed, schema)
    return frame.iloc[np.asarray(kept)], frame.iloc[np.asarray(held)]
