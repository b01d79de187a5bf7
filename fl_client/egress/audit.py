"""The site's append-only audit log: one JSON line for everything asked and everything sent.

A line holds ``time``, ``direction`` (``in`` or ``out``), ``run``, ``round`` and ``asked`` (the
message type), in an evaluation also ``split`` (whose rows were asked about). An incoming line adds
``job`` (task, model, strategy and the sha256 of the whole text) and ``received`` (arrays); an
outgoing one ``decision`` (``allowed`` or ``refused``), then ``left`` (arrays) and ``values``
(counts and names), or ``why`` and ``code``. An array is its name, shape, dtype, bytes and sha256.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fl_common.errors import ReplyError
from strategies.wire.job import Job
from strategies.wire.messages import CONFIG, JOB, ROUND, SPLIT
from strategies.wire.records import find_record


def write_line(path: Path | None, line: Mapping[str, Any]) -> None:
    """Append one line, on disk before this returns; nothing where ``path`` is None.

    Raises
    ------
    OSError
        If the line cannot be written whole; what it stands for must not happen then.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"time": datetime.now(UTC).isoformat(), **line}, default=repr) + "\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if _is_torn(descriptor):
            text = "\n" + text
        data = text.encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, "the line was written in part", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def asked(message: Message) -> dict[str, Any]:
    """Return who asked what: run, round, message type, and of an evaluation the split."""
    config = _config(message)
    line = {
        "run": message.metadata.run_id,
        "round": config.get(ROUND),
        "asked": message.metadata.message_type,
    }
    return line if SPLIT not in config else {**line, "split": config[SPLIT]}


def job(message: Message) -> dict[str, Any]:
    """Return what the job wants to do here; its whole text by its sha256."""
    text = _config(message).get(JOB)
    if not isinstance(text, str):
        return {}
    named: dict[str, Any] = {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    try:
        read = Job.from_json(text)
    except ReplyError:
        return named
    return named | {"task": read.task, "model": read.model.name, "strategy": read.strategy}


def arrays(message: Message) -> list[dict[str, Any]]:
    """Return name, shape, dtype, bytes and sha256 of each array in a message."""
    if not message.has_content():
        return []
    return [
        {
            "name": f"{record}/{name}",
            "shape": list(array.shape),
            "dtype": array.dtype,
            "bytes": len(array.data),
            "sha256": hashlib.sha256(array.data).hexdigest(),
        }
        for record, named in message.content.items()
        if isinstance(named, ArrayRecord)
        for name, array in named.items()
    ]


def values(message: Message) -> dict[str, Any]:
    """Return what leaves beside arrays: row counts, the training loss, the site's name."""
    if not message.has_content():
        return {}
    left: dict[str, Any] = {}
    for record in message.content.values():
        if isinstance(record, MetricRecord | ConfigRecord):
            left |= {key: _hashed(value) for key, value in record.items()}
    return left


def _hashed(value: Any) -> Any:
    """Keep keys and shares of a masked sum out of the log; say how large they were."""
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [_hashed(item) for item in value]
    if isinstance(value, bytes):
        return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return value


def _config(message: Message) -> Mapping[str, Any]:
    if not message.has_content():
        return {}
    return find_record(message.content, CONFIG, ConfigRecord) or {}


def _is_torn(descriptor: int) -> bool:
    """Say whether the last line lacks its end, after a full disk or a crash."""
    size = os.fstat(descriptor).st_size
    return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
