"""A declared column reaches database, API, page and result, by its declaration alone."""

from __future__ import annotations

import sqlite3
import warnings

import pytest

from fl_server.leaderboard.store import Store
from fl_server.leaderboard.web import create_app
from fl_server.results.columns import RoundColumns, SiteColumns, columns_of
from fl_server.results.records import SiteRecord
from tests.contracts.store_contract import make_info, make_record

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette asks for another client library
    from fastapi.testclient import TestClient


@pytest.fixture
def client(tmp_path):
    with (
        Store(f"sqlite:///{tmp_path}/board.sqlite") as store,
        TestClient(create_app(store)) as made,
    ):
        made.store, made.path = store, tmp_path / "board.sqlite"
        yield made


@pytest.mark.parametrize("name", columns_of(RoundColumns))
def test_a_round_s_column_reaches_database_api_and_pages(client, name):
    run_id = client.store.open_run(make_info())
    client.store.record_round(run_id, make_record(0, 0.5))
    heading = f">{columns_of(RoundColumns)[name].label}</th>"
    for page in ("/usecases/heart", f"/runs/{run_id}"):
        assert heading not in client.get(page).text
    client.store.record_round(run_id, make_record(1, 0.6, **{name: 0.4321}))

    with sqlite3.connect(client.path) as connection:
        kept = connection.execute(f"SELECT {name} FROM round ORDER BY round").fetchall()
    assert kept == [(None,), (0.4321,)]
    (entry,) = client.get("/api/usecases/heart/leaderboard").json()["results"]
    assert entry[name] == 0.4321
    rounds = client.get(f"/api/runs/{run_id}/rounds").json()["results"]
    assert [item[name] for item in rounds] == [None, 0.4321]
    for page in ("/usecases/heart", f"/runs/{run_id}"):
        text = client.get(page).text
        assert heading in text
        assert "0.4321" in text


@pytest.mark.parametrize("name", columns_of(SiteColumns))
def test_a_site_s_column_reaches_database_api_and_page(client, name):
    run_id = client.store.open_run(make_info())
    site = SiteRecord("berlin", "train", "ok", **{name: 0.4321})
    client.store.record_round(run_id, make_record(1, 0.6, sites=(site,)))
    with sqlite3.connect(client.path) as connection:
        assert connection.execute(f"SELECT {name} FROM site_record").fetchall() == [(0.4321,)]
    (found,) = client.get(f"/api/runs/{run_id}/rounds").json()["results"]
    assert found["sites"][0][name] == 0.4321
    assert "0.4321" in client.get(f"/runs/{run_id}").text
