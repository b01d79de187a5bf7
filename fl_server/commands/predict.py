"""``fedleague predict``: what a run's model says of rows or pictures, and whose it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fl_common.errors import ConfigError
from fl_common.files import write_atomically
from fl_common.words import suggest
from fl_server.results.saved_model import load_run_model
from tasks.tabular.files import open_table

ROW = "row"
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class PredictOptions:
    """How predictions are written.

    Parameters
    ----------
    threshold : float or None
        Least score of a box; None: every one that the evaluation counts.
    key : str or None
        Column of the rows that is written beside each prediction.
    """

    threshold: float | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"--threshold is {self.threshold:g}; expected a score from 0 to 1")


def predict_file(run: Path, data: Path, out: Path, options: PredictOptions) -> str:
    """Predict with a run's model, write the predictions, and return what to tell the user.

    Raises
    ------
    ConfigError
        If there are no such rows, or ``out`` or an option does not suit the run's task.
    """
    if not data.exists():
        raise ConfigError(f"{data}: no such file; give --data FILE, a CSV or Parquet file of rows")
    task, model = load_run_model(run)
    endings = tuple(getattr(task, "prediction_endings", TABLES))
    _check_ending(out, endings)
    if options.key is not None and not (endings == TABLES and data.suffix.lower() in TABLES):
        raise ConfigError("--id names a column of a table of rows; pictures carry their path")
    if options.threshold is not None and endings != (".json",):
        raise ConfigError("--threshold is the least score of a box; this run finds no boxes")
    found = task.predict(model, data)
    if options.threshold is not None:
        found = found.above(options.threshold)
    if hasattr(found, "write"):  # more than one file
        return str(found.write(out))
    if isinstance(found, pd.DataFrame):
        content = table_bytes(keyed(found, data, options.key), out)
    else:
        content = found.to_text().encode()
    write_atomically(out, content)
    return f"{len(found)} predictions: {out}"


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


def _check_ending(out: Path, endings: tuple[str, ...]) -> None:
    suffix = out.suffix.lower()
    if not endings and suffix in (*TABLES, ".json"):
        raise ConfigError(f"--out {out}: masks are written to a folder; leave '{out.suffix}' out")
    if endings and suffix not in endings:
        wanted = " or ".join(str(out.with_suffix(ending)) for ending in endings)
        raise ConfigError(f"--out {out}: '{out.suffix}' cannot be written; give --out {wanted}")
