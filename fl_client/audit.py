"""The site's append-only audit log: one JSON line for everything asked and everything sent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Message

from strategies.messages import ROUND


def write_line(path: Path | None, line: Mapping[str, Any]) -> None:
    """Append one line, flushed to disk before the reply leaves; nothing where ``path`` is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"time": datetime.now(UTC).isoformat(), **line}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(message: Message) -> dict[str, Any]:
    """Return who asked what: run, round and message type."""
    config: Mapping[str, Any] = (
        next(iter(message.content.config_records.values()), {}) if message.has_content() else {}
    )
    return {
        "run": message.metadata.run_id,
        "round": config.get(ROUND),
        "asked": message.metadata.message_type,
    }


def contents(message: Message) -> list[dict[str, Any]]:
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
        for record, arrays in message.content.array_records.items()
        for name, array in arrays.items()
    ]
