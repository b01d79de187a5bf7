"""``fedleague predict``: what a run's model says of rows or pictures, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_common.errors import ConfigError
from fl_common.files import write_atomically
from fl_server.results.saved_model import load_run_model
from tasks.tabular.predictions import TABLES, keyed, table_bytes


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
    if hasattr(found, "to_csv"):
        content = table_bytes(keyed(found, data, options.key), out)
    else:
        content = found.to_text().encode()
    write_atomically(out, content)
    return f"{len(found)} predictions: {out}"


def _check_ending(out: Path, endings: tuple[str, ...]) -> None:
    suffix = out.suffix.lower()
    if not endings and suffix in (*TABLES, ".json"):
        raise ConfigError(f"--out {out}: masks are written to a folder; leave '{out.suffix}' out")
    if endings and suffix not in endings:
        wanted = " or ".join(str(out.with_suffix(ending)) for ending in endings)
        raise ConfigError(f"--out {out}: '{out.suffix}' cannot be written; give --out {wanted}")
