"""What may leave in a masked sum: public keys, sealed shares, one vector of the asked length."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, Message

from fl_common.errors import EgressError, ReplyError
from strategies.wire.job import Job
from strategies.wire.messages import CONFIG, EVALUATE, JOB, TRAIN
from strategies.wire.records import find_record, record_of
from strategies.wire.secagg import (
    MASKED,
    MASKED_SUM,
    REPLIES,
    SECAGG,
    MaskRequest,
    Stage,
    expected_form,
    stage_of,
    vector_form,
)


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
    try:
        stage = stage_of(message)
        sent = find_record(reply.content, SECAGG, ConfigRecord)
        if sent is None and SECAGG in reply.content:
            raise EgressError(f"record '{SECAGG}' is of a kind that may not leave masked")
        REPLIES[stage].from_record(sent if sent is not None else ConfigRecord())
        if stage != Stage.MASK:
            _check_records(reply, {SECAGG})
            return None
        asked = MaskRequest.from_record(record_of(message.content, SECAGG, ConfigRecord))
    except (ReplyError, KeyError) as error:
        raise EgressError(f"not what may leave in a masked sum: {error}") from None
    _check_records(reply, {SECAGG, MASKED})
    vector = find_record(reply.content, MASKED, ArrayRecord)
    if vector is None or vector_form(vector) != expected_form(asked.num_words):
        raise EgressError("the masked vector is not of the form that was asked for")
    return vector


def _check_records(reply: Message, allowed: set[str]) -> None:
    if extra := set(reply.content.keys()) - allowed:
        raise EgressError(f"records {sorted(extra)} may not leave masked")
