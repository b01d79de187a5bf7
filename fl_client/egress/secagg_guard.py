"""What may leave in a masked sum: public keys, sealed shares, one vector of the asked length."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message

from fl_common.errors import EgressError, ReplyError
from strategies.privacy import secagg
from strategies.wire.job import Job
from strategies.wire.messages import CONFIG, EVALUATE, JOB, TRAIN
from strategies.wire.records import find_record
from strategies.wire.secagg import (
    BOXES,
    MASK_KEY,
    MASKED,
    MASKED_SUM,
    NODES,
    NUM_WORDS,
    SEAL_KEY,
    SECAGG,
    SHARES,
    STAGE,
    VECTOR,
)

KEY_BYTES, SHARE_BYTES, BOX_BYTES = 512, 128, 1024
"""Upper bounds: a PEM key on P-384, a share of 48 bytes, two sealed shares."""
FORMS: dict[object, dict[str, tuple[type, int]]] = {
    secagg.KEYS: {MASK_KEY: (bytes, KEY_BYTES), SEAL_KEY: (bytes, KEY_BYTES)},
    secagg.SHARES: {NODES: (int, 0), BOXES: (bytes, BOX_BYTES)},
    secagg.MASK: {},
    secagg.UNMASK: {SHARES: (bytes, SHARE_BYTES)},
}


def is_masked(message: Message) -> bool:
    """Say whether the reply to a message must be part of a masked sum."""
    kind = message.metadata.message_type
    if kind not in (TRAIN, EVALUATE):
        return kind == MASKED_SUM
    text = (find_record(message.content, CONFIG, ConfigRecord) or ConfigRecord()).get(JOB)
    try:
        return isinstance(text, str) and Job.from_json(text).secagg
    except ReplyError:
        return False


def check_masked(message: Message, reply: Message) -> ArrayRecord | None:
    """Check a reply of any stage; return the masked vector's record, for a look at its bytes.

    Raises
    ------
    EgressError
        Naming what may not leave.
    """
    asked = find_record(message.content, SECAGG, ConfigRecord) or ConfigRecord()
    stage = asked.get(STAGE) if message.metadata.message_type == MASKED_SUM else secagg.KEYS
    form = FORMS.get(stage)
    allowed = {SECAGG, MASKED} if stage == secagg.MASK else {SECAGG}
    if form is None or (extra := set(reply.content.keys()) - allowed):
        raise EgressError(f"records {sorted(extra) if form else []} may not leave masked")
    values = find_record(reply.content, SECAGG, ConfigRecord) or ConfigRecord()
    if extra := set(values) - set(form):
        raise EgressError(f"values {sorted(extra)} may not leave in stage {stage!r}")
    for key, value in values.items():
        _check_value(key, value, *form[key], listed=stage != secagg.KEYS)
    if stage != secagg.MASK:
        return None
    vector = find_record(reply.content, MASKED, ArrayRecord)
    shapes = {name: (tuple(a.shape), a.dtype) for name, a in (vector or {}).items()}
    if shapes != {VECTOR: ((asked.get(NUM_WORDS),), "uint64")}:
        raise EgressError("the masked vector is not of the form that was asked for")
    return vector


def _check_value(key: str, value: Any, kind: type, most: int, *, listed: bool) -> None:
    items = value if isinstance(value, list) else [value]
    if listed != isinstance(value, list) or any(type(item) is not kind for item in items):
        raise EgressError(f"'{key}' is not what may leave in a masked sum")
    if kind is bytes and any(len(item) > most for item in items):
        raise EgressError(f"'{key}' is longer than the {most} bytes that it needs")
