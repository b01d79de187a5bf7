"""How a run stands: its status, and which of them count."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, get_args

RunStatus = Literal["queued", "running", "finished", "stopped", "failed", "lost"]
"""
``queued``: accepted, not started. ``running``: gives signs of life. ``finished``: every round is
done, or it stopped early. ``stopped``: a person ended it. ``failed``: it could not go on.
``lost``: it says that it is running, and has given no sign of life for a while.
"""
STATUSES: tuple[RunStatus, ...] = get_args(RunStatus)
RECORDED: tuple[RunStatus, ...] = tuple(status for status in STATUSES if status != "lost")
"""What is written down; that a run is lost only its readers can tell."""
RANKED: tuple[RunStatus, ...] = ("running", "finished")
"""The others keep showing their rounds, without a place."""
WITH_REASON: tuple[RunStatus, ...] = ("stopped", "failed")
"""What is never recorded without a reason."""

SIGN_OF_LIFE_SECONDS = 15.0
"""How often a running run says that it is there."""
LOST_AFTER_SECONDS = 90.0
"""After this long without a sign of life a run counts as lost."""


def is_lost(status: RunStatus, last_sign: datetime, now: datetime) -> bool:
    """Say whether a run that should be running has been silent for too long."""
    return status == "running" and now - last_sign > timedelta(seconds=LOST_AFTER_SECONDS)


def lost_reason(last_sign: datetime) -> str:
    """Say since when, and what to do."""
    return (
        f"no sign of life since {last_sign:%Y-%m-%d %H:%M:%S} UTC; if the server is gone, continue "
        "with fl-server resume=RUN"
    )
