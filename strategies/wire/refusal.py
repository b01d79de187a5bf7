"""Why a site sent no result: the only errors that may leave it."""

from __future__ import annotations

from enum import Enum

from flwr.app import Error, Message

from fl_common.errors import (
    DataError,
    DivergedError,
    EgressError,
    PolicyError,
    ReplyError,
    SchemaError,
)


class Refusal(Enum):
    """Why a site sent no result: a code and a fixed text, so that no data can ride along."""

    PROTOCOL = (1001, "the site speaks another protocol version or could not read the job")
    POLICY = (1002, "the site's policy refuses this request")
    DATA = (1003, "the site's data cannot be used; its operator sees the reason in the site's log")
    SCHEMA = (1004, "the site's columns or classes do not fit the use case; see the site's log")
    DIVERGED = (1005, "training diverged at the site: the loss or a weight is not finite")
    EGRESS = (1006, "the site's egress guard held the reply back; see the site's audit log")
    INTERNAL = (1099, "the site failed; its operator sees the reason in the site's log")

    @property
    def code(self) -> int:
        """Number on the wire."""
        return self.value[0]

    @property
    def text(self) -> str:
        """Fixed text on the wire."""
        return self.value[1]

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """Map an exception to the one code that may leave."""
        by_type: tuple[tuple[type[Exception], Refusal], ...] = (
            (SchemaError, cls.SCHEMA),
            (DataError, cls.DATA),
            (PolicyError, cls.POLICY),
            (DivergedError, cls.DIVERGED),
            (EgressError, cls.EGRESS),
            (ReplyError, cls.PROTOCOL),
        )
        return next((refusal for kind, refusal in by_type if isinstance(error, kind)), cls.INTERNAL)

    @classmethod
    def from_code(cls, code: int) -> Refusal | None:
        """Return the refusal with this code; None for Flower's own codes (a lost node)."""
        return next((refusal for refusal in cls if refusal.code == code), None)


def refusal(error: Exception, message: Message) -> Message:
    """Answer ``message`` with the fixed code for ``error``; its text stays at the site."""
    why = Refusal.of(error)
    return Message(Error(why.code, why.text), reply_to=message)
