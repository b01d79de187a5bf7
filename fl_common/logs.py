"""What is logged where: the libraries below us only warn, and ours says what a person needs.

``FEDLEAGUE_DEBUG=1`` in the environment shows everything.
"""

from __future__ import annotations

import logging
import os

SERVER, SITE = "fedleague.server", "fedleague.site"
"""The loggers of the two commands."""
LIBRARIES = ("flwr", "hydra", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore")


def is_debugging() -> bool:
    """Say whether the user asked to see everything."""
    return bool(os.environ.get("FEDLEAGUE_DEBUG"))


def quieten(least: int = logging.WARNING) -> None:
    """Keep the logs of Flower, Hydra and the web libraries to ``least`` and above.

    Hydra logs what it also raises, so it says nothing at all.
    """
    debugging = is_debugging()
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.DEBUG if debugging else least)
    if not debugging:
        logging.getLogger("hydra").setLevel(logging.CRITICAL)
    flower = logging.getLogger("flwr")
    if not debugging and _is_worth_reading not in flower.filters:
        flower.addFilter(_is_worth_reading)


def log_to_terminal() -> None:
    """Print a resident client's log with times, as a service's journal wants it."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger(SITE).setLevel(logging.INFO)  # what was left out of the data


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Drop lines about requests that were refused in good order: the site is told."""
    text = str(record.msg)
    return "][ApiError:" not in text and "with ID %s does not exist" not in text
