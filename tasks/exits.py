"""How a command ends: one line and exit code 2 for what the user can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.errors import FedleagueError

EXIT_USER_ERROR = 2


@contextmanager
def friendly_errors(command: str) -> Iterator[None]:
    """Print a ``FedleagueError`` as one line on stderr and exit with code 2.

    With ``FEDLEAGUE_DEBUG=1`` in the environment the traceback is shown instead.
    """
    try:
        yield
    except FedleagueError as error:
        if os.environ.get("FEDLEAGUE_DEBUG"):
            raise
        print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print(f"\n{command}: stopped", file=sys.stderr)
        sys.exit(130)
