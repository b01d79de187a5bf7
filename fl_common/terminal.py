"""What a command prints: to a terminal, a file, or a pipe whose reader may be gone."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO, cast

from rich.console import Console

FILE_WIDTH = 1000
"""How wide a table may be in a file: nothing is cut to a terminal's 80 columns."""


def console() -> Console:
    """Return a console: as wide as the terminal, or as what is printed."""
    is_wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=FILE_WIDTH if is_wide else None)


def say(line: str) -> None:
    """Print a line as it is: a path stays whole, however narrow the terminal."""
    console().print(line, markup=False, highlight=False, soft_wrap=True)


def print_version() -> None:
    """Print which fedleague is installed."""
    try:
        print(f"fedleague {version('fedleague')}")
    except PackageNotFoundError:
        print("fedleague, not installed as a package")


@contextmanager
def unbroken_streams() -> Iterator[None]:
    """Go on when whoever reads our output has gone (``| head -1``): the rest is dropped."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unbroken(stream)) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Unbroken:
    """A stream that drops what nobody reads."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop."""
        if self._stream is not None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush, or drop."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except OSError as error:
                self._drop(error)

    def _drop(self, error: OSError) -> None:
        """Send what is still buffered, and all that follows, nowhere."""
        if self._stream is None or error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
