"""Ready tables by name: bundled with scikit-learn, generated, or read from the data folder.

A table is what ``dataset:NAME`` stands for in a site's ``DataSource``; its rows are cut into
sites by ``tasks.sites.partition``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module

import pandas as pd

from fl_common.errors import ConfigError
from fl_common.plugins import find_plugin, plugin_names
from fl_common.words import suggest

_READERS: dict[str, str] = {
    "breast_cancer": "tasks.datasets.bundled:breast_cancer",
    "diabetes": "tasks.datasets.bundled:diabetes",
    "digits": "tasks.datasets.bundled:digits",
    "iris": "tasks.datasets.bundled:iris",
    "wine": "tasks.datasets.bundled:wine",
    "liquid_biopsy": "tasks.datasets.generated:liquid_biopsy",
    "rare_disease": "tasks.datasets.generated:rare_disease",
    "small_regression": "tasks.datasets.generated:small_regression",
    "synthetic_iid": "tasks.datasets.synthetic:synthetic_iid",
    "synthetic_0_0": "tasks.datasets.synthetic:synthetic_0_0",
    "synthetic_0.5_0.5": "tasks.datasets.synthetic:synthetic_05_05",
    "synthetic_1_1": "tasks.datasets.synthetic:synthetic_1_1",
    "heart_disease": "tasks.datasets.heart_disease:heart_disease",
    "heart_disease_raw": "tasks.datasets.heart_disease:heart_disease_raw",
}


def dataset_names() -> tuple[str, ...]:
    """Return every name that ``load_dataset`` knows, sorted."""
    return tuple(sorted({*_READERS, *plugin_names("datasets")}))


@lru_cache(maxsize=16)
def load_dataset(name: str) -> pd.DataFrame:
    """Return a table; the frame is cached and shared, so callers must not change it.

    Parameters
    ----------
    name : str
        One of ``dataset_names()``.

    Returns
    -------
    pandas.DataFrame, shape (rows, columns)
        Features and target, index 0..rows-1, the same rows in the same order on every machine.

    Raises
    ------
    ConfigError
        If there is no table of that name.
    DataError
        If the table is read from files that are absent.
    """
    if (plugin := find_plugin("datasets", name, _READERS)) is not None:
        table: pd.DataFrame = plugin.load()()
        return table
    reference = _READERS.get(name)
    if reference is None:
        raise ConfigError(f"dataset '{name}' does not exist{suggest(name, dataset_names())}")
    module, _, function = reference.partition(":")
    read: Callable[[], pd.DataFrame] = getattr(import_module(module), function)
    return read()
