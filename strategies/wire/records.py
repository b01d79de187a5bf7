"""Records of a message: named arrays in and out, and how to find one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fl_common.errors import ReplyError
from strategies.wire import npy
from tasks.contract import Arrays

Record = TypeVar("Record", ArrayRecord, MetricRecord, ConfigRecord)


def find_record(content: RecordDict, name: str, kind: type[Record]) -> Record | None:
    """Return a record, or None if there is none of that name and kind.

    Unlike ``content.array_records``, which makes a view that refers to itself and so keeps the
    content in memory until the garbage collector comes by: with large models, gigabytes.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def record_of(content: RecordDict, name: str, kind: type[Record]) -> Record:
    """Return a record; see ``find_record``.

    Raises
    ------
    ReplyError
        If there is none of that name and kind.
    """
    record = find_record(content, name, kind)
    if record is None:
        raise ReplyError(f"reply lacks '{name}'")
    return record


def pack_arrays(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Encode named numpy arrays."""
    return ArrayRecord({name: npy.encode(values) for name, values in arrays.items()})


def unpack_arrays(record: ArrayRecord, *, copy: bool = True) -> Arrays:
    """Decode named numpy arrays.

    Parameters
    ----------
    copy : bool
        False: read-only views of the bytes received, for whoever only looks or adds up.

    Raises
    ------
    ReplyError
        If an array's bytes do not match what it declares.
    """
    arrays: Arrays = {}
    for name, array in record.items():
        try:
            value = npy.decode(array, copy=copy)
        except Exception as error:
            raise ReplyError(f"array '{name}' cannot be decoded") from error
        if list(value.shape) != list(array.shape) or str(value.dtype) != array.dtype:
            raise ReplyError(f"array '{name}' does not hold what it declares")
        arrays[name] = value
    return arrays


def payload_bytes(records: RecordDict) -> int:
    """Return the array bytes and the text bytes of a message's content."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            for value in record.values():
                items = value if isinstance(value, list) else [value]
                total += sum(len(item) for item in items if isinstance(item, str | bytes))
    return total
