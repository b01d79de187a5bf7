"""Open CSV, Parquet and named tables, and say where in the file a row stands."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fl_common.errors import DataError, SchemaError

DATASET = "dataset:"
_SNIFF_BYTES = 4096


@dataclass(frozen=True)
class Table:
    """A file's columns, unconverted.

    Parameters
    ----------
    origin : str
        The file as the user named it, for messages.
    path : Path or None
        Set for CSV files, whose line numbers are looked up when an error needs one.
    """

    frame: pd.DataFrame
    origin: str
    path: Path | None = None

    def cell(self, position: int, column: str) -> str:
        """Return ``file, row N, column 'c'`` for a 0-based record.

        For CSV the row is the line in the file (the header is 1); otherwise the 1-based record.
        """
        return f"{self.origin}, row {self.line(position)}, column '{column}'"

    def line(self, position: int) -> int:
        """Return the row number of a 0-based record as a person would count it."""
        if self.path is None:
            return position + 1
        for record, (line, _) in enumerate(_records(self.path)):
            if record == position + 1:  # record 0 is the header
                return line
        return position + 2


def open_table(name: str, missing: tuple[str, ...], is_text: Callable[[str], bool]) -> Table:
    """Read a CSV or Parquet file, or a ``dataset:NAME``, with every column.

    Parameters
    ----------
    is_text : callable
        Says which columns keep their text in a CSV file (``007`` stays ``007``).

    Raises
    ------
    DataError
        If the file is missing, a directory, empty, unreadable, ragged or of an unknown kind.
    SchemaError
        If two columns have the same name.
    """
    if name.startswith(DATASET):
        from tasks.tabular.datasets import load_dataset

        table = Table(_named(load_dataset(name.removeprefix(DATASET))), name)
    else:
        path = Path(name)
        reader = {".csv": _csv, ".parquet": _parquet, ".pq": _parquet}.get(path.suffix.lower())
        if path.is_dir():
            raise DataError(f"{name} is a directory; give the path of a CSV or Parquet file")
        if not path.exists():
            raise DataError(f"{name} does not exist; correct the path")
        if reader is None:
            raise DataError(f"{name} has the ending '{path.suffix}'; expected .csv or .parquet")
        try:
            table = reader(path, name, missing, is_text)
        except OSError as error:
            reason = error.strerror or "unknown format"
            raise DataError(f"{name} cannot be read ({reason}); check file and rights") from None
    _check_names([str(column) for column in table.frame.columns], name)
    if table.frame.empty:
        raise DataError(f"{name} has a header but no rows; add rows")
    return table


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis([str(column) for column in frame.columns], axis=1)


def _check_names(names: list[str], origin: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SchemaError(f"{origin}, row 1: column '{name}' stands twice; rename one of them")
        seen.add(name)


def _parquet(path: Path, name: str, missing: tuple[str, ...], _: object) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty; expected a Parquet file")
    try:
        names = pq.read_schema(path).names
        _check_names(names, name)
        return Table(_named(pd.read_parquet(path)), name)
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise DataError(
            f"{name} is not a readable Parquet file ({reason}); export it anew"
        ) from None


def _csv(path: Path, name: str, missing: tuple[str, ...], is_text: Callable[[str], bool]) -> Table:
    try:
        header = _header(path, name)
        frame = pd.read_csv(
            path,
            header=0,
            names=header,
            index_col=False,
            dtype={column: "str" for column in header if is_text(column)},
            na_values={column: list(missing) for column in header if not is_text(column)},
            keep_default_na=False,
            skipinitialspace=True,
            low_memory=False,
            encoding="utf-8",
        )
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{name} is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8") from None
    except pd.errors.ParserError as error:
        _check_widths(path, name)
        reason = str(error).splitlines()[0].removeprefix("Error tokenizing data. C error: ")
        raise DataError(f"{name} is not a readable CSV file ({reason}); correct it") from None
    last = frame.iloc[:, -1]
    if (last.isna() | last.eq("")).any():  # pandas fills short rows up, which shows here
        _check_widths(path, name)
    return Table(frame, name, path)


def _header(path: Path, name: str) -> list[str]:
    """Read the column names, and refuse what is no comma-separated text."""
    with path.open("rb") as file:
        start = file.read(_SNIFF_BYTES)
    if not start.strip():
        raise DataError(f"{name} is empty; expected a header line and rows")
    if b"\0" in start:
        raise DataError(f"{name} is a binary file, not CSV text; export it as CSV")
    records = _records(path)
    header = [column.strip() for column in next(records)[1]]
    if len(header) == 1:
        for separator, word in ((";", "';'"), ("\t", "tabs")):
            if separator in header[0]:
                raise DataError(f"{name}, row 1: columns are separated by {word}; use commas")
    _check_names(header, name)
    line, first = next(records, (0, header))
    if len(first) != len(header):
        raise _ragged(name, line, len(first), len(header))
    return header


def _check_widths(path: Path, name: str) -> None:
    """Scan a CSV file for a row that is longer or shorter than the header."""
    records = _records(path)
    width = len(next(records)[1])
    for line, record in records:
        if len(record) != width:
            raise _ragged(name, line, len(record), width)


def _ragged(name: str, line: int, found: int, width: int) -> DataError:
    return DataError(
        f"{name}, row {line} has {found} values, expected {width} as in the header; "
        "add or remove commas, or quote the text"
    )


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every record that is not blank."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        start = 1
        while True:
            try:
                record = next(reader, None)
            except csv.Error:  # a stray NUL or an oversized field: pandas reports it
                return
            if record is None:
                return
            if len(record) > 1 or (record and record[0].strip()):
                yield start, record
            start = reader.line_num + 1
