"""Rows as arrays: what is kept of a table once its cells are checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import DataError, SchemaError
from fl_common.words import canonical, quoted, suggest
from tasks.tabular.files import Table
from tasks.tabular.schema import Subgroup, TabularSchema
from tasks.tabular.values import NotNumberError, numbers, text_codes


@dataclass(frozen=True)
class Rows:
    """Checked rows; NaN and -1 are missing values.

    Parameters
    ----------
    numeric_names, categorical_names : tuple of str
    levels : tuple of tuple of str
        Texts behind ``codes``, per categorical column.
    numeric : array, shape (n, p), float64
    codes : array, shape (n, q), int32
    target : array, shape (n,), int64 class numbers or float64 values; empty when not read
    groups : array, shape (n, g), bool
        Membership in each declared subgroup.
    """

    numeric_names: tuple[str, ...]
    categorical_names: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    numeric: NDArray[np.float64]
    codes: NDArray[np.int32]
    target: NDArray[Any]
    groups: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.numeric)

    @property
    def columns(self) -> set[str]:
        """Feature columns."""
        return {*self.numeric_names, *self.categorical_names}

    def take(self, index: NDArray[np.int64]) -> Rows:
        """Return the rows at ``index`` (a copy)."""
        return Rows(
            self.numeric_names,
            self.categorical_names,
            self.levels,
            self.numeric[index],
            self.codes[index],
            self.target[index],
            self.groups[index],
        )


def labelled_rows(table: Table, schema: TabularSchema) -> Rows:
    """Check a whole table, target and subgroups included.

    Raises
    ------
    DataError, SchemaError
        Naming file, row, column and cure.
    """
    names = list(table.frame.columns)
    if schema.target not in names:
        raise SchemaError(
            f"{table.origin}, row 1: target column '{schema.target}' is missing"
            f"{suggest(schema.target, names)}"
        )
    target = _classes(table, schema) if schema.classes else _values(table, schema)
    groups = [_members(table, schema, group, target) for group in schema.subgroups]
    members = np.array(groups, dtype=bool).reshape(len(groups), len(target)).T
    columns = schema.features(names, table.origin)
    return feature_rows(table, schema, columns, target=target, groups=members)


def feature_rows(
    table: Table,
    schema: TabularSchema,
    columns: Sequence[str],
    *,
    target: NDArray[Any] | None = None,
    groups: NDArray[np.bool_] | None = None,
) -> Rows:
    """Check the feature columns of a table, which must all exist."""
    size = len(table.frame)
    missing = schema.missing_values
    numeric = [column for column in columns if not schema.is_categorical(column)]
    categorical = [column for column in columns if schema.is_categorical(column)]
    matrix = np.empty((size, len(numeric)))
    texts: dict[str, NotNumberError] = {}
    for j, column in enumerate(numeric):
        try:
            matrix[:, j] = numbers(table, column, missing)
        except NotNumberError as error:
            texts[column] = error
    if texts:
        raise _text_columns(texts, schema)
    encoded = [text_codes(table, column, missing) for column in categorical]
    codes = np.array([code for code, _ in encoded], dtype=np.int32).reshape(len(encoded), size).T
    return Rows(
        tuple(numeric),
        tuple(categorical),
        tuple(levels for _, levels in encoded),
        matrix,
        np.ascontiguousarray(codes),
        np.zeros(size) if target is None else target,
        np.zeros((size, 0), dtype=bool) if groups is None else groups,
    )


def _text_columns(texts: dict[str, NotNumberError], schema: TabularSchema) -> DataError:
    """Name every column that holds text, and what to paste if they are categories."""
    names = [*schema.categorical, *texts]
    listed = ",".join(
        name if re.fullmatch(r"[A-Za-z_]\w*", name) else f'"{name}"' for name in names
    )
    paste = f"usecase.categorical=[{listed}]"
    paste = f"'{paste}'" if '"' in paste else paste
    first, *others = texts
    if others:
        cure = f"{quoted(texts)} hold text: give {paste}, or correct the values"
    else:
        cure = f"add '{first}' to usecase.categorical or correct the value ({paste})"
    return DataError(f"{texts[first]}; {cure}")


def complete_rows(rows: Rows) -> NDArray[np.int64]:
    """Return the positions of the rows without a missing value in a feature column."""
    present = ~np.isnan(rows.numeric).any(axis=1) & (rows.codes >= 0).all(axis=1)
    return np.flatnonzero(present)


def _classes(table: Table, schema: TabularSchema) -> NDArray[np.int64]:
    column = schema.target
    # a class may well be called "null" or "NA"
    missing = [text for text in schema.missing_values if text not in schema.class_index]
    codes, levels = text_codes(table, column, missing)
    _refuse_missing(table, column, codes < 0)
    known = schema.class_index
    for code, level in enumerate(levels):
        if level not in known:
            position = int(np.argmax(codes == code))
            raise SchemaError(
                f"{table.cell(position, column)}: class '{level}' is not one of "
                f"{quoted(schema.classes)}; add it to usecase.classes or correct the value"
            )
    return np.array([known[level] for level in levels], dtype=np.int64)[codes]


def _values(table: Table, schema: TabularSchema) -> NDArray[np.float64]:
    cure = "the target of a regression must be a number; correct the value"
    target = numbers(table, schema.target, schema.missing_values, cure)
    _refuse_missing(table, schema.target, np.isnan(target))
    return target


def _refuse_missing(table: Table, column: str, absent: NDArray[np.bool_]) -> None:
    if absent.any():
        where = table.cell(int(absent.argmax()), column)
        raise DataError(f"{where}: the target is missing; fill it in or remove the row")


def _members(
    table: Table, schema: TabularSchema, group: Subgroup, target: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return which rows belong to a subgroup, shape (n,)."""
    if group.label is not None:
        return np.asarray(target == schema.class_index[canonical(group.label)])
    column = str(group.column)
    if column not in table.frame.columns:
        raise SchemaError(
            f"{table.origin}, row 1: column '{column}' of usecase.subgroups.{group.name} is "
            f"missing{suggest(column, list(table.frame.columns))}"
        )
    if group.values is not None:
        codes, levels = text_codes(table, column, schema.missing_values)
        wanted = [i for i, level in enumerate(levels) if level in group.values]
        return np.isin(codes, wanted)
    cure = f"usecase.subgroups.{group.name} needs numbers; correct the value"
    values = numbers(table, column, schema.missing_values, cure)
    low = -np.inf if group.low is None else group.low
    high = np.inf if group.high is None else group.high
    return np.asarray((values >= low) & (values <= high))  # NaN is in no range
