"""Logs of the libraries below us: silent, unless something is wrong or asked for."""

from __future__ import annotations

import logging
import os


def quieten() -> None:
    """Keep Flower's and the web server's logs to warnings, unless FEDLEAGUE_DEBUG is set."""
    level = logging.DEBUG if os.environ.get("FEDLEAGUE_DEBUG") else logging.WARNING
    for name in ("flwr", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(level)
    flower = logging.getLogger("flwr")
    if level == logging.WARNING and _is_worth_reading not in flower.filters:
        flower.addFilter(_is_worth_reading)


def _is_worth_reading(record: logging.LogRecord) -> bool:
    """Drop lines about requests that were refused in good order: the site is told."""
    text = str(record.msg)
    return "][ApiError:" not in text and "with ID %s does not exist" not in text
