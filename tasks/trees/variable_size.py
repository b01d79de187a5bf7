"""Models that grow: the one exception from "a reply has the shapes that were sent"."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from tasks.contract import Arrays, Model


@runtime_checkable
class VariableSizeModel(Model, Protocol):
    """A model that grows: trees, as text in 1-D uint8 arrays whose length differs each round.

    Of every other model the wire demands the shapes that were sent; this one judges a reply.
    """

    def most_bytes(self, sent: Arrays) -> int:
        """Return how large a reply to ``sent`` may be, so that nothing larger is even read."""

    def check_reply(self, reply: Arrays, sent: Arrays, *, whole: bool | None = None) -> None:
        """Check what a site made of ``sent``; nothing of it is executed or unpickled.

        Parameters
        ----------
        whole : bool or None
            Whether the reply continues ``sent``, or holds what is new only; None: either.

        Raises
        ------
        ReplyError
            Saying what is wrong.
        """
