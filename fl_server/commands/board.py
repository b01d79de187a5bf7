"""``fedleague board``: the leaderboard of a database that is there already."""

from __future__ import annotations

from pathlib import Path

from fl_common.errors import ConfigError


def serve_board(db: str, host: str, port: int) -> None:
    """Serve the leaderboard of ``db`` until a person stops it.

    Raises
    ------
    ConfigError
        If there is no such database, or the port is taken.
    """
    from fl_server.leaderboard.web import serve

    scheme, _, path = db.partition(":///")
    if scheme == "sqlite" and not Path(path).is_file():
        raise ConfigError(
            f"--db {db}: no such file; a run of fl-server writes it (board.url), or give --db URL"
        )
    serve(db, host, port)
