"""Errors that a user can act on.

Each message names the place (file, row, key) and the cure; the command line prints it as one
line and exits with code 2, without a traceback.

::

    FedleagueError
    ├── ConfigError        a use case, model, strategy or option that does not exist or fit
    ├── DataError          a site's files: missing, empty, unreadable, wrong values
    │   └── SchemaError    columns or classes that differ from the use case or between sites
    ├── CheckpointError    a run folder that cannot be resumed
    ├── FileWriteError     a file that cannot be written: the disk is full, or the folder read-only
    ├── PolicyError        the site's own policy refuses what was asked
    ├── EgressError        a reply holds something that may not leave the site
    ├── ReplyError         a site's reply that must not be aggregated
    ├── DivergedError      training produced a non-finite loss or weight
    ├── QuorumError        too few sites answered in time
    └── LinkError          connection, TLS or key trouble between server and site
"""

from __future__ import annotations

from pathlib import Path
from signal import Signals


class FedleagueError(Exception):
    """Base of every error that is shown to the user as one line."""


class ConfigError(FedleagueError):
    """A configuration value does not exist or does not fit."""


class DataError(FedleagueError):
    """A site's data cannot be used as it is."""


class SchemaError(DataError):
    """Columns or classes differ from the use case, or between sites."""


class CheckpointError(FedleagueError):
    """A run folder cannot be resumed."""


class FileWriteError(FedleagueError):
    """A file cannot be written.

    Parameters
    ----------
    path : Path
    why : str
        What the message says after the path.
    reason : str
        What the system says.
    """

    def __init__(self, path: Path, why: str, reason: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.reason = path, reason


class PolicyError(FedleagueError):
    """The site's policy refuses the request."""


class EgressError(FedleagueError):
    """A reply holds something that may not leave the site."""


class ReplyError(FedleagueError):
    """A site's reply must not be aggregated."""


class DivergedError(FedleagueError):
    """Training produced a loss or a weight that is not finite."""


class QuorumError(FedleagueError):
    """Too few sites took part before the deadline."""


class StoppedError(KeyboardInterrupt):
    """A person or the system asked the command to end (SIGINT, SIGTERM).

    As a ``KeyboardInterrupt`` it passes whatever catches ``Exception`` on its way.

    Parameters
    ----------
    signal : Signals
        What the process was sent.
    text : str
        What was done by then, and how to go on.
    """

    def __init__(self, signal: Signals, text: str = "") -> None:
        super().__init__(text or f"stopped ({signal.name})")
        self.signal = signal


class LinkError(FedleagueError):
    """Server and site cannot talk: address, TLS or key."""
