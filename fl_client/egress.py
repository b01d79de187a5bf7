"""The egress guard: the outermost wrapper round every handler; it fails closed.

A reply leaves only if it is exactly what its message type may carry: known records, arrays with
the names, shapes and dtypes that were asked for, finite values. An exception leaves as a fixed
code, never as text, because an exception's text can hold data.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fl_client import audit
from fl_client.locate import site_of
from strategies.messages import (
    ARRAYS,
    DESCRIBE,
    EVALUATE,
    EXTRA,
    FIT,
    METRICS,
    SITE,
    STATS,
    TRAIN,
    refusal,
)
from tasks.errors import EgressError, FedleagueError

log = logging.getLogger("fedleague.site")

ALLOWED_RECORDS = {
    DESCRIBE: {SITE, METRICS},
    FIT: {SITE, METRICS, STATS},
    TRAIN: {ARRAYS, METRICS, EXTRA},
    EVALUATE: {STATS, METRICS},
}
SUMMAND_DTYPES = {"int64", "float64"}


def egress_guard(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Run the handler; let only a well-formed reply or a fixed code out."""
    path = None
    try:
        site = site_of(context)
        path = site.audit
        audit.write_line(path, {"direction": "in", **audit.describe(message)})
        reply = call_next(message, context)
        check_reply(message, reply)
        if path is not None:
            line = {"direction": "out", **audit.describe(message), "decision": "allowed"}
            audit.write_line(path, {**line, "left": audit.contents(reply)})
        return reply
    except Exception as error:
        return _refuse(message, error, path)


def check_reply(message: Message, reply: Message) -> None:
    """Check a reply against what its message type may carry.

    Raises
    ------
    EgressError
        Naming the record or array that must not leave.
    """
    if not reply.has_content():
        return
    kind = message.metadata.message_type
    allowed = ALLOWED_RECORDS.get(kind, set())
    if extra := set(reply.content.keys()) - allowed:
        raise EgressError(f"records {sorted(extra)} may not leave in a '{kind}' reply")
    received = message.content.array_records.get(ARRAYS)
    for record in (ARRAYS, EXTRA):
        if (sent := reply.content.array_records.get(record)) is not None:
            _check_weights(sent, received, exact=record == ARRAYS)
    if (stats := reply.content.array_records.get(STATS)) is not None:
        for name, array in stats.items():
            if array.dtype not in SUMMAND_DTYPES:
                raise EgressError(f"'{name}' is {array.dtype}; only counts and sums may leave")
            _check_finite(name, array)


def _check_weights(sent: ArrayRecord, received: ArrayRecord | None, *, exact: bool) -> None:
    """Weights leave only in the shapes in which they came."""
    if received is None or (exact and sent.keys() != received.keys()):
        raise EgressError("the reply holds weights that were not asked for")
    shapes = {(tuple(a.shape), a.dtype) for a in received.values()}
    for name, array in sent.items():
        expected = received.get(name)
        form = (tuple(array.shape), array.dtype)
        known = (
            form in shapes if expected is None else form == (tuple(expected.shape), expected.dtype)
        )
        if not known:
            raise EgressError(
                f"weight '{name}' is {array.dtype}{list(array.shape)}, not as received"
            )
        _check_finite(name, array)


def _check_finite(name: str, array: Array) -> None:
    if array.dtype.startswith("float") and not np.isfinite(array.numpy()).all():
        raise EgressError(f"'{name}' holds a value that is not finite")


def _refuse(message: Message, error: Exception, path: Path | None) -> Message:
    expected = isinstance(error, FedleagueError)
    log.error("refused '%s': %s", message.metadata.message_type, error, exc_info=not expected)
    line = {"direction": "out", **audit.describe(message), "decision": "refused"}
    try:
        audit.write_line(path, {**line, "why": str(error)})
    except OSError as audit_error:
        log.error("audit log cannot be written: %s", audit_error)
    return refusal(error, message)
