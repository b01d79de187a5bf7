"""Cells to values: one text for equal categories, float64 for numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_common.errors import DataError
from fl_common.words import canonical
from tasks.tabular.files import Table

LARGEST = 1e140
"""Larger magnitudes are refused: their squares would overflow a float64 sum."""


def text_codes(
    table: Table, column: str, missing: Sequence[str]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Encode a column's texts.

    Returns
    -------
    codes : array, shape (n,), int32
        Index into ``levels``; -1 where the value is missing.
    levels : tuple of str, sorted
    """
    codes, uniques = _factorize(table, column)
    texts = [canonical(value) for value in uniques]
    levels = sorted(set(texts).difference(missing))
    index = {level: i for i, level in enumerate(levels)}
    lookup = np.array([*(index.get(text, -1) for text in texts), -1], dtype=np.int32)
    return lookup[codes], tuple(levels)


class NotNumberError(DataError):
    """A text where the schema has a number; the message lacks the cure."""


def numbers(
    table: Table, column: str, missing: Sequence[str], cure: str = ""
) -> NDArray[np.float64]:
    """Read a column as float64, shape (n,), NaN where the value is missing.

    Raises
    ------
    NotNumberError
        If a value is text and there is no ``cure``, naming its row.
    DataError
        If a value is text, a date, infinite, or beyond 1e140, naming its row.
    """
    series = table.frame[column]
    if pd.api.types.is_bool_dtype(series.dtype) or pd.api.types.is_numeric_dtype(series.dtype):
        if pd.api.types.is_complex_dtype(series.dtype):
            raise DataError(f"{table.origin}, column '{column}' holds complex numbers; exclude it")
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
    elif pd.api.types.is_datetime64_any_dtype(series.dtype) or series.dtype.kind == "m":
        raise DataError(
            f"{table.origin}, column '{column}' holds dates; "
            "add it to usecase.exclude or convert it to a number"
        )
    else:
        values = _parse(table, column, missing, cure)
    values = _blank_tokens(values, missing)
    wild = np.abs(values) > LARGEST  # NaN compares false
    if wild.any():
        position = int(wild.argmax())
        raise DataError(
            f"{table.cell(position, column)}: {values[position]:g} is infinite or beyond "
            f"{LARGEST:g}; correct the value or leave it empty"
        )
    return values


def _blank_tokens(values: NDArray[np.float64], missing: Sequence[str]) -> NDArray[np.float64]:
    """Set numeric sentinels such as -999 to NaN."""
    tokens = [number for number in map(_as_float, missing) if number is not None]
    if tokens:
        hits = np.isin(values, tokens)
        values = np.where(hits, np.nan, values) if hits.any() else values
    return values


def _parse(table: Table, column: str, missing: Sequence[str], cure: str) -> NDArray[np.float64]:
    codes, uniques = _factorize(table, column)
    lookup = np.full(len(uniques) + 1, np.nan)  # the last one serves code -1
    for code, unique in enumerate(uniques):
        text = canonical(unique)
        if text in missing:
            continue
        number = _as_float(text)
        if number is None:
            position = int(np.argmax(codes == code))
            found = f"{table.cell(position, column)}: '{_shorten(str(unique))}' is not a number"
            raise DataError(f"{found}; {cure}") if cure else NotNumberError(found)
        lookup[code] = number
    return lookup[codes]


def _factorize(table: Table, column: str) -> tuple[NDArray[np.int64], Sequence[Any]]:
    try:
        codes, uniques = pd.factorize(table.frame[column])
    except TypeError:  # lists or mappings, which Parquet can hold
        raise DataError(
            f"{table.origin}, column '{column}' holds nested values; add it to usecase.exclude"
        ) from None
    return codes, list(uniques)


def _as_float(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _shorten(text: str, limit: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
