"""One site's rows: read, cut by partition, split into training, validation and holdout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, SchemaError
from fl_common.words import suggest
from tasks.contract import HOLDOUT, VALIDATION, DataSource, Partition
from tasks.sites.data import SiteSplits
from tasks.sites.partition import partition_rows
from tasks.sites.splits import ThreeWay, has_single, split_three_ways, splitter
from tasks.tabular.encode import Encoder, Units
from tasks.tabular.files import DATASET, Table, open_table
from tasks.tabular.rows import Rows, complete_rows, labelled_rows
from tasks.tabular.schema import TabularSchema
from tasks.tabular.values import text_codes


class Tensors(NamedTuple):
    """Encoded rows: inputs (n, d) float32; targets (n,) int64 classes or float32 values."""

    inputs: torch.Tensor
    targets: torch.Tensor


class TabularData(SiteSplits[Rows]):
    """A site's training, validation and holdout rows (``contract.SiteData``).

    Encoded tensors are made once per preprocessing and kept.
    """

    def __init__(
        self,
        name: str,
        train: Rows,
        holdout: Rows,
        notes: list[str],
        subgroups: Sequence[str] = (),
        *,
        validation: Rows | None = None,
    ) -> None:
        super().__init__(name, train, holdout, notes, validation=validation)
        self._subgroups = tuple(subgroups)
        self._tensors: dict[str, Tensors] = {}
        self._encoded_by = ""

    def subgroup_rows(self, split: str) -> dict[str, int]:
        """Rows of each declared subgroup in a split; a site's policy may hold small ones back."""
        counts = self.split(split).groups.sum(axis=0).tolist()
        return dict(zip(self._subgroups, counts, strict=True))

    def tensors(self, encoder: Encoder, split: str) -> Tensors:
        """Return the rows of ``split``, encoded."""
        if self._encoded_by != encoder.key:
            self._tensors, self._encoded_by = {}, encoder.key
        if split not in self._tensors:
            rows = self.split(split)
            inputs = encoder.encode(rows, self.name, self._units(encoder))
            targets = encoder.scale_target(rows.target)
            self._tensors[split] = Tensors(torch.from_numpy(inputs), torch.from_numpy(targets))
        return self._tensors[split]

    def _units(self, encoder: Encoder) -> Units | None:
        """Return the site's own mean and scale where the use case asks for them; they stay here."""
        return encoder.own_units(self.train, self.name) if encoder.per_site else None


def read_site(source: DataSource, split_seed: int, schema: TabularSchema) -> TabularData:
    """Read and split a site's files.

    What has no file of its own is split off the training file as ``schema.split`` says, which
    depends on the seed, on each row's position in the file and on the classes. A partition cuts
    every file alike; incomplete rows are dropped after it, before the split.

    Raises
    ------
    DataError, SchemaError
        Naming file, row, column and cure.
    ConfigError
        If a fraction is not within (0, 1), or ``on_invalid`` is set: it means pictures.
    """
    if source.on_invalid is not None:
        raise ConfigError(
            f"site '{source.name}': data.on_invalid is for pictures; a table's bad rows are "
            "mended, or dropped by usecase.drop_incomplete=true"
        )
    rows, notes = _usable(source, source.train, schema)
    if len(rows) < 2:
        found = "one row" if len(rows) else "no complete row"
        raise DataError(f"{source.train}: site '{source.name}' has {found}; it needs at least 2")
    given = {HOLDOUT: source.holdout, VALIDATION: source.validation}
    read: dict[str, Rows] = {}
    for split, file in given.items():
        if file is not None:
            read[split], more = _usable(source, file, schema)
            notes += more
            _same_columns(source.train, rows, file, read[split])
    labels = rows.target if schema.classes else None
    drawn = _split(source, split_seed, schema, labels, len(rows))
    if labels is not None:
        notes += _unstratified(labels, drawn)
    for split in (HOLDOUT, VALIDATION):
        if split not in read and len(getattr(drawn, split)):
            read[split] = rows.take(getattr(drawn, split))
    train = rows.take(drawn.train)
    return TabularData(
        source.name,
        train,
        read[HOLDOUT],
        notes + _notes(train, schema),
        [group.name for group in schema.subgroups],
        validation=read.get(VALIDATION),
    )


def site_positions(source: DataSource, split_seed: int, schema: TabularSchema) -> ThreeWay:
    """Return which rows of a shared table a site trains on, chooses by and holds out.

    Raises
    ------
    ConfigError
        If the source has no partition.
    """
    if source.partition is None:
        raise ConfigError(f"site '{source.name}' is not cut from a shared table")
    rows, index = _part(source.train, schema, source.partition)
    if schema.drop_incomplete:
        index = index[complete_rows(rows.take(index))]
    labels = rows.target[index] if schema.classes else None
    drawn = _split(source, split_seed, schema, labels, len(index))
    return ThreeWay(*(index[positions] for positions in drawn))


def _split(
    source: DataSource,
    split_seed: int,
    schema: TabularSchema,
    labels: NDArray[np.int64] | None,
    size: int,
) -> ThreeWay:
    """Split what has no file of its own."""
    return split_three_ways(
        splitter(schema.split),
        size,
        labels,
        holdout=source.holdout_fraction if source.holdout is None else None,
        validation=source.validation_fraction if source.validation is None else None,
        seed=split_seed if source.split_seed is None else source.split_seed,
    )


def _unstratified(labels: NDArray[np.int64], drawn: ThreeWay) -> list[str]:
    """Note each split that was drawn without regard to classes, for lack of rows."""
    left = np.sort(np.concatenate([drawn.train, drawn.validation]))
    stages = ((HOLDOUT, drawn.holdout, labels), (VALIDATION, drawn.validation, labels[left]))
    return [
        f"a class has one row only: the {split} split is not stratified"
        for split, rows, among in stages
        if len(rows) and has_single(among)
    ]


def _usable(source: DataSource, name: str, schema: TabularSchema) -> tuple[Rows, list[str]]:
    """Return a file's rows that may be used, and a note on those that may not."""
    rows = _read(source, name, schema)
    if not schema.drop_incomplete:
        return rows, []
    kept = complete_rows(rows)
    if len(kept) == len(rows):
        return rows, []
    left_out = len(rows) - len(kept)
    note = f"{left_out} of {len(rows)} rows have a missing value and are left out"
    return rows.take(kept), [note]


def _notes(train: Rows, schema: TabularSchema) -> list[str]:
    notes = []
    if schema.classes and len(np.unique(train.target)) == 1:
        only = schema.classes[int(train.target[0])]
        notes.append(f"the training rows have one class only: '{only}'")
    present = ~np.isnan(train.numeric)
    for j, column in enumerate(train.numeric_names):
        values = train.numeric[present[:, j], j]
        if not len(values):
            notes.append(f"column '{column}' has no value; the global {schema.imputation} is used")
        elif values.min() == values.max():
            notes.append(f"column '{column}' is constant")
    declared = dict(schema.categories)
    for j, column in enumerate(train.categorical_names):
        codes = train.codes[:, j]
        if (codes < 0).all():
            notes.append(f"column '{column}' has no value")
        counts = np.bincount(codes[codes >= 0])
        if column not in declared and counts.sum() > 1 and counts.max() == 1:
            notes.append(
                f"column '{column}' has another value in every row, from which nothing is learned; "
                f"usecase.exclude=[{column}] leaves it out"
            )
        used = {train.levels[j][code] for code in np.unique(codes[codes >= 0])}
        unknown = sorted(used.difference(declared[column])) if column in declared else []
        if unknown:
            notes.append(f"column '{column}' has undeclared values, taken as other: {unknown[:5]}")
    return notes


def _same_columns(train_name: str, train: Rows, holdout_name: str, holdout: Rows) -> None:
    missing, extra = train.columns - holdout.columns, holdout.columns - train.columns
    if missing or extra:
        column = min(missing or extra)
        without, has = (holdout_name, train_name) if missing else (train_name, holdout_name)
        raise SchemaError(
            f"{without}, row 1: column '{column}' is missing, but {has} has it; "
            "give both files the same columns, or add it to usecase.exclude"
        )


def _read(source: DataSource, name: str, schema: TabularSchema) -> Rows:
    if source.partition is None:
        return labelled_rows(_open(name, schema), schema)
    rows, index = _part(name, schema, source.partition)
    if not len(index):
        raise DataError(
            f"{name}: part {source.partition.index} of {source.partition.num_sites} has no rows; "
            "lower data.num_sites or raise partition.alpha"
        )
    return rows.take(index)


def _part(name: str, schema: TabularSchema, partition: Partition) -> tuple[Rows, NDArray[np.int64]]:
    """Return a shared table and which of its rows belong to this site."""
    rows, column = _read_shared(name, _stamp(name), schema, partition.column)
    return rows, np.asarray(partition_rows(rows.target, column, partition), dtype=np.int64)


@lru_cache(maxsize=2)
def _read_shared(
    name: str, stamp: object, schema: TabularSchema, column: str | None
) -> tuple[Rows, NDArray[Any] | None]:
    """Read a table that many simulated sites are cut from, once per process."""
    table = _open(name, schema)
    rows = labelled_rows(table, schema)
    if column is None:
        return rows, None
    if column not in table.frame.columns:
        raise SchemaError(
            f"{name}, row 1: column '{column}' of partition.column is missing"
            f"{suggest(column, list(table.frame.columns))}"
        )
    if pd.api.types.is_numeric_dtype(table.frame[column].dtype):
        return rows, table.frame[column].to_numpy()
    codes, levels = text_codes(table, column, schema.missing_values)
    return rows, np.array([*levels, None], dtype=object)[codes]


def _stamp(name: str) -> object:
    """Return what changes when the file does."""
    path = Path(name)
    if name.startswith(DATASET) or not path.is_file():
        return None
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _open(name: str, schema: TabularSchema) -> Table:
    ranges = {group.column for group in schema.subgroups if group.values is None}
    values = {group.column for group in schema.subgroups if group.values is not None}

    def is_text(column: str) -> bool:
        if column == schema.target:
            return bool(schema.classes)
        return schema.is_categorical(column) or (column in values and column not in ranges)

    return open_table(name, schema.missing_values, is_text)
