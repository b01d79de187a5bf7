"""Read one site's pictures, whatever is learned from them: one way for every task of pictures.

A source is what a task's files are, or ``dataset:NAME``. Every picture is decoded once, so that a
bad one is found before the first round instead of in the seventh, and then only referred to. What
was read is cut by the site's partition and split into training, validation and holdout. A task says
what a record is and how its label is read (``RecordReader``); everything else is here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DataError, SchemaError
from fl_common.words import suggest
from tasks.contract import HOLDOUT, TRAIN, VALIDATION, Array, DataSource
from tasks.images.checked_items import CheckedItems, checked_items
from tasks.images.datasets import load_image_dataset
from tasks.images.image_refs import ImageRef, with_bit_depth
from tasks.images.issues import ImageIssues, on_invalid
from tasks.images.read import BadImageError, ImageFacts
from tasks.sites.file_version import file_version
from tasks.sites.partition import partition_rows
from tasks.sites.splits import (
    Positions,
    ThreeWay,
    last_rows,
    merge_singles,
    split_rows,
    split_three_ways,
)

DATASET = "dataset:"


class Record(Protocol):
    """A picture as a site's files name it; its label is unread or unchecked."""

    @property
    def image(self) -> ImageRef:
        """The picture, not decoded."""


class Item(Protocol):
    """A usable picture with its label."""

    @property
    def image_ref(self) -> ImageRef:
        """The picture, not decoded."""

    @property
    def groups(self) -> Mapping[str, str]:
        """Columns by which a partition can cut."""


RecordT = TypeVar("RecordT", bound=Record)
ItemT = TypeVar("ItemT", bound=Item)


class RecordReader(Protocol[RecordT, ItemT]):
    """What a task knows of its pictures. Hashable: equal readers share what they read."""

    @property
    def task(self) -> str:
        """The task's public name."""

    @property
    def on_invalid(self) -> str:
        """What a bad picture does, unless its site says otherwise."""

    @property
    def bit_depth(self) -> int | None:
        """Bits that 16-bit pixels use, the same at every site; None: as each file says."""

    @property
    def merge_singles(self) -> bool:
        """Whether strata of one picture are held out together instead of ending the strata."""

    def __hash__(self) -> int:
        """Hash what decides how files are read."""

    def has_holdout(self, path: Path) -> bool:
        """Say whether a source names its own held-out pictures."""

    def records(self, path: Path, split: str, issues: ImageIssues) -> Iterable[RecordT]:
        """Return the records of a source's ``train`` or ``holdout``.

        Raises
        ------
        DataError, SchemaError
            If the source as a whole cannot be read, naming the cure.
        """

    def item(self, record: RecordT, facts: ImageFacts, issues: ImageIssues) -> ItemT | None:
        """Read the label of a picture that can be decoded; None, and an issue, if it is bad."""

    def same_label(self, one: ItemT, other: ItemT) -> bool:
        """Say whether two copies of a picture have one label."""

    def strata(self, items: Sequence[ItemT]) -> NDArray[np.int64]:
        """Return one class for each picture: a partition skews by it, a split holds out of each."""

    def notes(self, train: Sequence[ItemT]) -> list[str]:
        """Return what the operator should know of the training labels."""


@dataclass(frozen=True)
class SiteItems(Generic[ItemT]):
    """A site's pictures by split, and what its operator should know."""

    train: tuple[ItemT, ...]
    holdout: tuple[ItemT, ...]
    notes: tuple[str, ...]
    validation: tuple[ItemT, ...] | None = None


def read_items(
    source: DataSource, split_seed: int, reader: RecordReader[RecordT, ItemT]
) -> SiteItems[ItemT]:
    """Read and split a site's pictures.

    Where neither a holdout nor the source itself names held-out pictures, ``holdout_fraction`` of
    each stratum is held out by seed; of a film, the last frames. ``validation_fraction`` of what
    is left is set aside in the same way. A partition cuts all alike.

    Raises
    ------
    DataError, SchemaError
        Naming file and cure; under ``on_invalid: refuse`` with the first bad files of each kind.
    ConfigError
        If a fraction is not within (0, 1).
    """
    found = _read(source, source.train, reader, TRAIN)
    given = {HOLDOUT: _holdout(source, reader)}
    if source.validation is not None:
        given[VALIDATION] = _read(source, source.validation, reader, HOLDOUT)
    notes = list(found.notes)
    drawn = _split(
        found,
        source,
        reader,
        holdout=source.holdout_fraction if given[HOLDOUT] is None else None,
        validation=source.validation_fraction if VALIDATION not in given else None,
        seed=split_seed if source.split_seed is None else source.split_seed,
    )
    parts = {TRAIN: found.take(drawn.train), HOLDOUT: found.take(drawn.holdout)}
    if len(drawn.validation):
        parts[VALIDATION] = found.take(drawn.validation)
    digests = dict(found.digests)
    for split, items in given.items():
        if items is not None:
            parts[split] = items.items
            digests |= items.digests
            notes += [f"{split}: {note}" for note in items.notes]
    issues = ImageIssues(on_invalid(source, reader))
    drawn_splits = {split for split in parts if given.get(split) is None}
    parts = _apart(parts, digests, drawn_splits, issues)
    issues.check(source.train)
    if not parts[TRAIN]:
        raise DataError(f"{source.train}: every training picture is held out, too; give others")
    notes += issues.notes()
    train = parts[TRAIN]
    return SiteItems(train, parts[HOLDOUT], (*notes, *reader.notes(train)), parts.get(VALIDATION))


def column_values(items: Sequence[Item], name: str) -> Array:
    """Return each picture's value in a column.

    Raises
    ------
    SchemaError
        If no picture has the column.
    """
    known = sorted({key for item in items for key in item.groups})
    if name not in known:
        hint = suggest(name, known) or "; there are none, a manifest may give some"
        raise SchemaError(f"pictures have no column '{name}'{hint}")
    return np.array([item.groups.get(name) for item in items], dtype=object)


def _holdout(
    source: DataSource, reader: RecordReader[RecordT, ItemT]
) -> CheckedItems[ItemT] | None:
    if source.holdout is not None:
        return _read(source, source.holdout, reader, HOLDOUT)
    if not source.train.startswith(DATASET) and reader.has_holdout(Path(source.train)):
        return _read(source, source.train, reader, HOLDOUT)
    return None


def _split(
    found: CheckedItems[ItemT],
    source: DataSource,
    reader: RecordReader[RecordT, ItemT],
    *,
    holdout: float | None,
    validation: float | None,
    seed: int,
) -> ThreeWay:
    """Split what the site has no files of its own for."""
    if len(found.items) < 2 and holdout is not None:
        raise DataError(
            f"{source.train}: site '{source.name}' has one picture; it needs at least 2"
        )

    def split(size: int, strata: NDArray[np.int64] | None, fraction: float, seed: int) -> Positions:
        if found.ordered:
            return last_rows(size, fraction)
        if reader.merge_singles and strata is not None:
            strata = merge_singles(strata)
        return split_rows(size, strata, fraction, seed)

    return split_three_ways(
        split,
        len(found.items),
        reader.strata(found.items),
        holdout=holdout,
        validation=validation,
        seed=seed,
    )


def _read(
    source: DataSource, name: str, reader: RecordReader[RecordT, ItemT], split: str
) -> CheckedItems[ItemT]:
    policy = on_invalid(source, reader)
    partition = source.partition
    if partition is None:
        return _checked(name, reader, policy, split)
    found = _shared(name, file_version(name), reader, policy, split)
    column = None
    if partition.kind == "column" and partition.column is not None:
        column = column_values(found.items, partition.column)
    rows = partition_rows(reader.strata(found.items), column, partition)
    return replace(found, items=found.take(rows))


@lru_cache(maxsize=4)
def _shared(
    name: str, version: object, reader: RecordReader[Any, Any], policy: str, split: str
) -> CheckedItems[Any]:
    """Read pictures that many simulated sites are cut from, once per process."""
    return _checked(name, reader, policy, split)


def _checked(
    name: str, reader: RecordReader[RecordT, ItemT], policy: str, split: str
) -> CheckedItems[ItemT]:
    issues = ImageIssues(policy)
    records, ordered = _open(name, reader, split, issues)
    digests: dict[str, bytes] = {}
    found = (_item(record, reader, issues, digests) for record in records)
    items = _single_labelled([i for i in found if i is not None], digests, reader, issues)
    return replace(checked_items(name, items, issues, ordered=ordered), digests=digests)


def _open(
    name: str, reader: RecordReader[RecordT, ItemT], split: str, issues: ImageIssues
) -> tuple[Iterable[RecordT], bool]:
    """Return records, and whether neighbours are alike."""
    if not name.startswith(DATASET):
        return reader.records(Path(name), split, issues), False
    dataset = load_image_dataset(name.removeprefix(DATASET))
    if dataset.task != reader.task:
        raise ConfigError(f"{name} is for the task {dataset.task}, not {reader.task}")
    return dataset.records(issues), dataset.ordered


def _item(
    record: RecordT,
    reader: RecordReader[RecordT, ItemT],
    issues: ImageIssues,
    digests: dict[str, bytes],
) -> ItemT | None:
    """Return a picture that can be decoded and has a label; report any other."""
    if reader.bit_depth is not None:
        image = with_bit_depth(record.image, reader.bit_depth)
        record = cast(RecordT, replace(cast(Any, record), image=image))
    try:
        facts = record.image.inspect()
    except BadImageError as error:
        issues.add(error.kind, record.image.name, error.detail)
        return None
    for kind in facts.conversions:
        issues.add(kind, record.image.name)
    digests[record.image.name] = facts.digest or record.image.name.encode()
    return reader.item(record, facts, issues)


def _single_labelled(
    items: Sequence[ItemT],
    digests: Mapping[str, bytes],
    reader: RecordReader[RecordT, ItemT],
    issues: ImageIssues,
) -> tuple[ItemT, ...]:
    """Leave out pictures whose copy has another label: nobody can say which is right."""
    first: dict[bytes, ItemT] = {}
    torn: set[bytes] = set()
    for item in items:
        name = item.image_ref.name
        other = first.setdefault(digests[name], item)
        if other is item:
            continue
        same = reader.same_label(other, item)
        issues.add("copy" if same else "two_labels", name, f"same as {other.image_ref.name}")
        if not same:
            torn.add(digests[name])
    return tuple(item for item in items if digests[item.image_ref.name] not in torn)


def _apart(
    parts: Mapping[str, tuple[ItemT, ...]],
    digests: Mapping[str, bytes],
    drawn: Collection[str],
    issues: ImageIssues,
) -> dict[str, tuple[ItemT, ...]]:
    """Leave a picture out of training (and of validation) whose copy is held out (or chooses).

    Parameters
    ----------
    drawn : collection of str
        Splits that were drawn from one source: a copy there is no fault of the site's.
    """
    taken: dict[bytes, tuple[str, str]] = {}
    kept: dict[str, tuple[ItemT, ...]] = {}
    for split in (HOLDOUT, VALIDATION, TRAIN):
        if split not in parts:
            continue
        left = []
        for item in parts[split]:
            name = item.image_ref.name
            above, other = taken.get(digests[name], (split, ""))
            if above == split:
                left.append(item)
                continue
            kind = "copy_held_out" if {split, above} <= set(drawn) else "in_two_splits"
            issues.add(kind, name, f"{split}; in {above}: {other}")
        taken |= {digests[i.image_ref.name]: (split, i.image_ref.name) for i in left}
        kept[split] = tuple(left)
    return {split: kept[split] for split in parts}
