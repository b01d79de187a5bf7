"""A table of predictions: whose each is, and as a file."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.tabular.files import open_table

ROW = "row"
TABLES = (".csv", ".parquet")


def keyed(table: pd.DataFrame, data: Path, key: str | None) -> pd.DataFrame:
    """Return predictions with what says whose each is, in front.

    Rows carry their number, 1 for the first below the header, and ``key``, if given. Pictures carry
    what their task says already (``data_id``).

    Raises
    ------
    ConfigError
        If the rows have no column ``key``, or a prediction is called like that.
    """
    if data.suffix.lower() not in TABLES or "data_id" in table:
        return table
    found = table.copy()
    found.insert(0, ROW, range(1, len(table) + 1))
    if key is None:
        return found
    frame = open_table(str(data), (), lambda column: column == key).frame
    names = [str(name) for name in frame.columns]
    if key not in names:
        raise ConfigError(f"--id {key}: {data} has no such column{suggest(key, names)}")
    if key in found:
        raise ConfigError(f"--id {key}: a column of the predictions is called like that; rename it")
    found.insert(1, key, frame[key].to_numpy())
    return found


def table_bytes(table: pd.DataFrame, out: Path) -> bytes:
    """Return a table as Parquet or CSV, by the ending of ``out``."""
    if out.suffix.lower() != ".parquet":
        return table.to_csv(index=False).encode()
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()
