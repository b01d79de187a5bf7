from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from fl_common.errors import ConfigError, FedleagueError
from fl_server.leaderboard import migrations
from fl_server.leaderboard.store import Store
from fl_server.leaderboard.tables import Table
from tests.contracts.store_contract import StoreContract, make_info, make_record

POSTGRES = os.environ.get("FEDLEAGUE_TEST_POSTGRES_URL", "")


class TestSqlite(StoreContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/runs/board.sqlite"


@pytest.mark.skipif(not POSTGRES, reason="FEDLEAGUE_TEST_POSTGRES_URL names no PostgreSQL database")
class TestPostgres(StoreContract):
    @pytest.fixture
    def url(self):
        engine = create_engine(migrations.parse_url(POSTGRES))
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        engine.dispose()
        return POSTGRES

    def test_wrong_password_is_masked(self, url):
        wrong = migrations.parse_url(url).set(password="hunter2")
        with pytest.raises(ConfigError, match="check user and password") as raised:
            Store(wrong.render_as_string(hide_password=False))
        assert "hunter2" not in str(raised.value)

    def test_schema_is_what_the_tables_say(self, url):
        assert_schema_matches(url)


def assert_schema_matches(url):
    Store(url).close()
    engine = migrations.connect(migrations.parse_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "version_table": migrations.VERSION_TABLE}
        )
        assert compare_metadata(context, Table.metadata) == []
    engine.dispose()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "board.sqlite"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


def test_schema_is_what_the_tables_say(url):
    assert_schema_matches(url)


def test_database_of_the_first_schema_is_brought_up_to_date(url):
    """A leaderboard that an older fedleague wrote keeps its runs."""
    with Store(url) as store:
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(0, 0.5))
        old = {name: store.open_run(make_info(key=name)) for name in ("early", "killed", "full")}
    engine = migrations.connect(migrations.parse_url(url))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        states = {"early": ("stopped", ""), "killed": ("failed", ""), "full": ("failed", "disk")}
        for name, values in states.items():
            connection.exec_driver_sql(
                "UPDATE run SET status = ?, reason = ? WHERE key = ?", (*values, name)
            )
        connection.exec_driver_sql("UPDATE run SET updated_at = '2026-01-31 12:00:00.000000'")
    engine.dispose()
    with Store(url) as store:
        assert [(item.score, item.epsilon) for item in store.rounds(run_id)] == [(0.5, None)]
        assert store.run(run_id).status == "lost"
        found = {name: store.run(number) for name, number in old.items()}
        assert {name: (run.status, run.reason) for name, run in found.items()} == {
            "early": ("finished", "stopped early"),
            "killed": ("stopped", "interrupted"),
            "full": ("failed", "disk"),
        }
    assert_schema_matches(url)


def test_file_uses_the_write_ahead_log_and_foreign_keys(url):
    with Store(url) as store, store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_dropped_round_leaves_no_orphans(url, path):
    with Store(url) as store:
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(1, 0.5))
        store.drop_rounds_after(run_id, 0)
    connection = sqlite3.connect(path)
    for table in ("round", "metric", "site_record"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()


@pytest.mark.slow
def test_processes_may_open_at_once(url):
    code = "import sys; from fl_server.leaderboard.store import Store; Store(sys.argv[1]).close()"
    running = [
        subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [(item.communicate()[1], item.returncode) for item in running] == [("", 0)] * 4


def test_reopening_keeps_the_runs(url):
    with Store(url) as store:
        run_id = store.open_run(make_info())
    with Store(url) as store:
        assert store.run(run_id).team_name == "aorta"


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("board.sqlite", "is not a database URL: use sqlite:///board.sqlite"),
        ("mysql://me:hunter2@host/db", "of an unknown kind: use sqlite"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://me:hunter2@127.0.0.1:1/db", "does not answer: start PostgreSQL"),
    ],
)
def test_bad_address_is_one_line_with_a_cure(address, cure):
    if address.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(ConfigError) as raised:
        Store(address)
    assert cure in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_folder_that_cannot_be_made_is_said(path):
    path.write_text("a file, not a folder")
    with pytest.raises(ConfigError, match=r"cannot be made .*name another place"):
        Store(f"sqlite:///{path}/runs/board.sqlite")


def test_file_that_is_no_database_is_said(url, path):
    path.write_bytes(b"slug,title\n" * 1000)
    with pytest.raises(ConfigError, match="is not an SQLite database: name another file"):
        Store(url)


def test_folder_instead_of_file_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened: check that its folder"):
        Store(f"sqlite:///{tmp_path}")


def test_someone_elses_tables_are_left_alone(url, path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE run (mine TEXT)")
    connection.commit()
    with pytest.raises(ConfigError, match="holds tables of another program"):
        Store(url)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("run",)]
    connection.close()


def test_newer_schema_asks_for_an_upgrade(url, path):
    Store(url).close()
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(ConfigError, match="written by a newer fedleague: upgrade"):
        Store(url)


def test_read_only_database_can_be_read_but_not_written(url, path):
    with Store(url) as store:
        run_id = store.open_run(make_info())
    with Store(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        assert store.run(run_id).team_name == "aorta"
        with pytest.raises(ConfigError, match="cannot be written: make the file"):
            store.record_round(run_id, make_record(0, 0.5))


def test_full_disk_is_said_and_the_round_is_not_half_recorded(url):
    with Store(url) as store:
        run_id = store.open_run(make_info())
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        big = make_record(0, 0.5, reason="x" * 100_000)
        with pytest.raises(FedleagueError, match="no space left: free some disk space"):
            store.record_round(run_id, big)
        assert store.rounds(run_id) == []


def test_locked_database_is_said(url, path, monkeypatch):
    monkeypatch.setattr(migrations, "BUSY_SECONDS", 0.05)
    with Store(url) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigError, match="held by another program"):
            store.open_run(make_info())
        other.close()
        assert store.open_run(make_info()) == 1
