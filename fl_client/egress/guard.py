"""The egress guard: the outermost wrapper round every handler; it fails closed.

A reply leaves only if it is exactly what its message type may carry (``reply_check``). An exception
leaves as a fixed code, never as text, because an exception's text can hold data. What cannot be
written to the audit log does not leave.
"""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from fl_client.egress import audit
from fl_client.egress.reply_check import ALLOWED_RECORDS, check_reply
from fl_client.site_lookup import site_of
from fl_common.errors import FedleagueError, PolicyError
from strategies.wire.refusal import Refusal, refusal

log = logging.getLogger("fedleague.site")


def egress_guard(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Run the handler; let only a well-formed reply or a fixed code out."""
    path = None
    try:
        site = site_of(context)
        path = site.audit
        line = {"direction": "in", **audit.asked(message)}
        if path is not None:
            line |= {"job": audit.job(message), "received": audit.arrays(message)}
        audit.write_line(path, line)
        if message.metadata.message_type not in ALLOWED_RECORDS:
            raise PolicyError(f"this site does not answer '{message.metadata.message_type}'")
        reply = call_next(message, context)
        check_reply(message, reply, site)
        if path is not None:
            line = {"direction": "out", **audit.asked(message), "decision": "allowed"}
            line |= {"left": audit.arrays(reply), "values": audit.values(reply)}
            audit.write_line(path, line)
        return reply
    except SystemExit:
        return _refuse(message, RuntimeError("the handler wanted to end the process"), path)
    except Exception as error:
        return _refuse(message, error, path)


def _refuse(message: Message, error: Exception, path: Path | None) -> Message:
    expected = isinstance(error, FedleagueError)
    try:
        why = f"{error}" if expected else f"{type(error).__name__}: {error}"
    except Exception:  # a custom exception may not even print
        why = type(error).__name__
    log.error("refused '%s': %s", message.metadata.message_type, why, exc_info=not expected)
    try:
        line = {"direction": "out", **audit.asked(message), "decision": "refused"}
        audit.write_line(path, {**line, "code": Refusal.of(error).code, "why": why})
    except Exception as audit_error:
        log.error("audit log cannot be written: %s", audit_error)
    return refusal(error, message)
