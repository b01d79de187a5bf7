"""Reaching the database: connections, schema versions, and errors with their cure.

The schema is brought up to date when a store is opened; the user needs no Alembic command.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError

from fl_common.errors import ConfigError

BUSY_SECONDS = 30
"""How long a writer waits for another one."""

VERSION_TABLE = "fedleague_version"
"""Not Alembic's default name: Flower's own state may live in the same database."""

_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps its environment in module globals."""

_LOCK_KEY = 0x66656C67  # "felg": any constant that others are unlikely to lock


_CURES = (
    ("unable to open", "cannot be opened", "check that its folder exists and may be written"),
    ("not a database", "is not an SQLite database", "name another file"),
    ("malformed", "is damaged", "restore a copy, or name another file"),
    ("readonly", "cannot be written", "make the file and its folder writable"),
    ("read-only", "cannot be written", "connect as a role that may write"),
    ("disk is full", "has no space left", "free some disk space and resume the run"),
    ("no space left", "has no space left", "free some disk space and resume the run"),
    ("locked", "is held by another program", "close it, or use PostgreSQL for many writers"),
    ("already exists", "holds tables of another program", "name an empty database"),
    ("can't locate revision", "was written by a newer fedleague", "upgrade fedleague"),
    ("connection refused", "does not answer", "start PostgreSQL, or check host and port"),
    ("timeout", "does not answer", "check host, port and firewall"),
    ("resolve", "has an unknown host", "check the host's name"),
    ("translate host", "has an unknown host", "check the host's name"),
    ("password", "refuses the login", "check user and password"),
    ("does not exist", "does not exist", "create it, or check its name"),
    ("permission denied", "refuses access", "grant the role the right to create tables"),
)


def parse_url(text: str) -> URL:
    """Return the address with its driver; the folder of an SQLite file is made.

    Raises
    ------
    ConfigError
        If the address is malformed, of an unknown kind, or names no file.
    """
    example = "use sqlite:///board.sqlite or postgresql://user:password@host/database"
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(
            f"leaderboard address {text!r} is not a database URL: {example}"
        ) from error
    backend = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
    if backend == "postgresql":
        if importlib.util.find_spec("psycopg") is None:
            raise ConfigError("PostgreSQL needs psycopg: pip install 'fedleague[postgresql]'")
        return url.set(drivername="postgresql+psycopg")
    shown = url.render_as_string(hide_password=True)
    if backend != "sqlite":
        raise ConfigError(f"leaderboard address {shown!r} is of an unknown kind: {example}")
    if not url.database or url.database == ":memory:":
        raise ConfigError(f"leaderboard address {shown!r} names no file: {example}")
    if not url.database.startswith("file:"):
        try:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"leaderboard folder {Path(url.database).parent} cannot be made "
                f"({error.strerror}): name another place"
            ) from error
    return url.set(drivername="sqlite")


def connect(url: URL) -> Engine:
    """Return an engine; nothing is opened yet.

    On SQLite, transactions are begun by us: ``BEGIN IMMEDIATE`` where the execution option
    ``write`` is set, so that two writers queue instead of failing half-way.
    """
    if url.get_backend_name() != "sqlite":
        options: dict[str, Any] = {"connect_args": {"connect_timeout": 10}, "pool_pre_ping": True}
        return create_engine(url, **options)
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    for wait in (0.02, 0.1, 0.5, 2.0, None):
        try:
            # The journal mode is kept in the file; changing it ignores the busy timeout.
            if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if wait is None or "locked" not in str(error):
                raise
            time.sleep(wait)


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def upgrade(engine: Engine) -> None:
    """Bring the schema to this package's version; safe when several processes open at once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        if current_revision(connection) == head:
            return
    with _ONE_AT_A_TIME, engine.execution_options(write=True).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current_revision(connection: Connection) -> str | None:
    """Return the schema's version; ``None`` for an empty database."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def explain(error: Exception, url: URL) -> ConfigError:
    """Turn a database's error into one line with the address (no password) and the cure."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    place = f"leaderboard database {url.render_as_string(hide_password=True)}"
    for sign, problem, cure in _CURES:
        if sign in text.lower():
            return ConfigError(f"{place} {problem}: {cure}")
    return ConfigError(f"{place} failed ({text[:200]}): check the address")
