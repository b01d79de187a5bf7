"""What a reply may carry: exactly what its message type asks for.

Known records of the right kind, arrays with the names, shapes and dtypes that were asked for,
finite values, and the few named numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from fl_client.egress.secagg_guard import check_masked, is_masked
from fl_client.policy.site import SiteConfig
from fl_client.site_job import job_parts
from fl_common.errors import EgressError, ReplyError
from strategies.tree_replies import check_tree_reply
from strategies.wire.compression import encoded_form, encoded_names
from strategies.wire.job import Job
from strategies.wire.messages import (
    ARRAYS,
    DESCRIBE,
    EPSILON,
    EVALUATE,
    EXTRA,
    FIT,
    JOB,
    LOSS,
    MEMORY_ROUND,
    METRICS,
    NAME,
    NUM_EXAMPLES,
    NUM_HOLDOUT,
    NUM_STEPS,
    NUM_TRAIN,
    NUM_VALIDATION,
    SITE,
    STATS,
    TRAIN,
    UPDATE,
    config_of,
)
from strategies.wire.records import find_record, unpack_arrays
from strategies.wire.refusal import Refusal
from strategies.wire.secagg import MASKED, MASKED_SUM, SECAGG
from tasks.trees.variable_size import VariableSizeModel

ALLOWED_RECORDS = {
    DESCRIBE: {SITE, METRICS},
    FIT: {SITE, METRICS, STATS},
    TRAIN: {ARRAYS, METRICS, EXTRA, UPDATE},
    EVALUATE: {STATS, METRICS},
    MASKED_SUM: {SECAGG, MASKED},
}
RECORD_KINDS = {
    ARRAYS: ArrayRecord,
    EXTRA: ArrayRecord,
    UPDATE: ArrayRecord,
    STATS: ArrayRecord,
    METRICS: MetricRecord,
    SITE: ConfigRecord,
}
ALLOWED_NUMBERS = {
    DESCRIBE: {NUM_TRAIN, NUM_VALIDATION, NUM_HOLDOUT, MEMORY_ROUND},
    FIT: {NUM_TRAIN, NUM_VALIDATION, NUM_HOLDOUT, MEMORY_ROUND},
    TRAIN: {NUM_EXAMPLES, NUM_STEPS, LOSS, EPSILON},
    EVALUATE: {NUM_EXAMPLES},
}
EVALUATION_SCOPES = ("overall/", "subgroups/", "blocks/", "attributions/")
SUMMAND_DTYPES = {"int64", "float64"}
FIXED_ERRORS = {(refused.code, refused.text) for refused in Refusal}


def check_reply(message: Message, reply: Message, site: SiteConfig) -> None:
    """Check a reply against what its message type may carry.

    Raises
    ------
    EgressError
        Naming the record, number or array that must not leave.
    """
    if reply.has_error():
        if (reply.error.code, reply.error.reason) not in FIXED_ERRORS:
            raise EgressError("an error with a text of its own may not leave")
        return
    kind = message.metadata.message_type
    if is_masked(message):
        if (vector := check_masked(message, reply)) is not None:
            _check_content(vector)
        return
    if extra := set(reply.content.keys()) - ALLOWED_RECORDS[kind]:
        raise EgressError(f"records {sorted(extra)} may not leave in a '{kind}' reply")
    for name, record in reply.content.items():
        if not isinstance(record, RECORD_KINDS[name]):
            raise EgressError(f"record '{name}' is a {type(record).__name__}")
    _check_numbers(find_record(reply.content, METRICS, MetricRecord) or {}, ALLOWED_NUMBERS[kind])
    named = find_record(reply.content, SITE, ConfigRecord)
    if named is not None and named != {NAME: site.name}:
        raise EgressError("the site's name, and nothing else, may leave as text")
    received = find_record(message.content, ARRAYS, ArrayRecord)
    if (update := find_record(reply.content, UPDATE, ArrayRecord)) is not None:
        _check_update(message, update, received)
        received = _without_encoded(received or ArrayRecord())
    if (sent := find_record(reply.content, ARRAYS, ArrayRecord)) is not None:
        grows = received is not None and _check_growing(message, sent, received)
        if not grows:
            _check_weights(sent, received)
    if (sent := find_record(reply.content, EXTRA, ArrayRecord)) is not None:
        further = find_record(message.content, EXTRA, ArrayRecord)
        _check_weights(sent, received, further or ArrayRecord())
    if (stats := find_record(reply.content, STATS, ArrayRecord)) is not None:
        _check_summands(stats, evaluation=kind == EVALUATE)


def _check_numbers(record: Mapping[str, Any], allowed: set[str]) -> None:
    """Only the named numbers leave, one value each: a list could be a column."""
    for name, value in record.items():
        if name not in allowed:
            raise EgressError(f"number '{name}' may not leave in this reply")
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise EgressError(f"number '{name}' is not one finite number")


def _check_update(message: Message, update: ArrayRecord, received: ArrayRecord | None) -> None:
    """Let a compressed update leave in exactly the form that the job declares."""
    compression = Job.from_json(str(config_of(message)[JOB])).compression
    if received is None or not compression.is_active:
        raise EgressError("the reply holds an encoded update that was not asked for")
    form = {name: (tuple(a.shape), a.dtype) for name, a in update.items()}
    if form != encoded_form(received, compression):
        raise EgressError(f"the encoded update is {form}, not as the job declares")
    _check_content(update)


def _without_encoded(received: ArrayRecord) -> ArrayRecord:
    encoded = set(encoded_names(received))
    return ArrayRecord({name: array for name, array in received.items() if name not in encoded})


def _check_growing(message: Message, sent: ArrayRecord, received: ArrayRecord) -> bool:
    """Let trees leave as text that is parsed to its last number; say whether these are trees."""
    if any(array.dtype != "uint8" or len(array.shape) != 1 for array in received.values()):
        return False
    model = job_parts(str(config_of(message)[JOB])).model
    if not isinstance(model, VariableSizeModel):
        return False
    try:
        check_tree_reply(sent, unpack_arrays(received, copy=False), model)
    except ReplyError as error:
        raise EgressError(str(error)) from None
    _check_content(sent)
    return True


def _check_weights(
    sent: ArrayRecord, received: ArrayRecord | None, further: ArrayRecord | None = None
) -> None:
    """Weights leave only under the names, and in the forms, in which they came.

    Parameters
    ----------
    further : ArrayRecord or None
        Extra arrays that came with the model, for a strategy's extra arrays that leave; None
        asks for the model itself, every name of it.
    """
    if received is None or (further is None and sent.keys() != received.keys()):
        raise EgressError("the reply holds weights that were not asked for")
    known = {name: _form(array) for name, array in received.items()}
    known |= {name: _form(array) for name, array in (further or {}).items()}
    for name, array in sent.items():
        if known.get(name) != _form(array):
            raise EgressError(
                f"weight '{name}' is {array.dtype}{list(array.shape)}, not as received"
            )
    _check_content(sent)


def _form(array: Array) -> tuple[tuple[int, ...], str]:
    return tuple(array.shape), array.dtype


def _check_summands(stats: ArrayRecord, *, evaluation: bool) -> None:
    """Let counts and sums pass; in an evaluation below the scopes of a score card."""
    for name, array in stats.items():
        if array.dtype not in SUMMAND_DTYPES:
            raise EgressError(f"'{name}' is {array.dtype}; only counts and sums may leave")
        if evaluation and not name.startswith(EVALUATION_SCOPES):
            raise EgressError(f"'{name}' is no summand of an evaluation")
    _check_content(stats)


def _check_content(record: ArrayRecord) -> None:
    """Require that an array holds what it declares, nothing behind it, and finite values."""
    try:
        arrays = unpack_arrays(record, copy=False)
    except ReplyError as error:
        raise EgressError(str(error)) from None
    for name, value in arrays.items():
        if len(record[name].data) != value.nbytes + _header_bytes(record[name]):
            raise EgressError(f"'{name}' holds more bytes than its shape needs")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise EgressError(f"'{name}' holds a value that is not finite")


def _header_bytes(array: Array) -> int:
    """Return the length of the ``.npy`` header (format 1.0: its length is in bytes 8 and 9)."""
    return 10 + int.from_bytes(array.data[8:10], "little")
