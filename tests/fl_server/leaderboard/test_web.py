from __future__ import annotations

import json
import math
import re
import socket
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from fl_common.errors import ConfigError, LinkError
from fl_server.config.usecase import ScoreRule
from fl_server.leaderboard.store import Store
from fl_server.leaderboard.web import create_app, serve, serve_in_background
from tests.contracts.store_contract import USECASE, make_info, make_record

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # starlette asks for another client library
    from fastapi.testclient import TestClient

SEED = Path(__file__).resolve().parents[4] / "shared" / "seed" / "usecases.json"
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/board.sqlite"


@pytest.fixture
def store(url):
    with Store(url) as store:
        yield store


@pytest.fixture
def client(store):
    with TestClient(create_app(store)) as client:
        yield client


@pytest.fixture
def run_id(store):
    run_id = store.open_run(make_info())
    for number, score in enumerate((0.5, 0.75, 0.8)):
        store.record_round(run_id, make_record(number, score))
    store.finish_run(run_id, "finished")
    return run_id


class Elements(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_use_cases_have_the_platforms_shape(client, run_id):
    answer = client.get("/api/usecases/").json()
    assert set(answer) == {"count", "next", "previous", "results"}
    (case,) = answer["results"]
    assert (case["slug"], case["title"], case["task_type"]) == (
        "heart",
        "Heart disease",
        "tabular_classification",
    )
    assert (case["high_score"], case["total_participants"]) == (0.8, 1)
    assert case["score_formula_display"] == "f1_macro"
    assert case["top_leaderboard_entries"] == [
        {"id": run_id, "team_name": "aorta", "running_score": 0.8}
    ]
    assert client.get("/api/usecases/heart/").json() == case
    assert client.get("/api/usecases/heart").json() == case


def test_fields_that_the_platform_has_are_of_its_kind(client, run_id):
    (case,) = client.get("/api/usecases/").json()["results"]
    if not SEED.exists():
        pytest.skip(f"{SEED} is not on this machine")
    (example, *_) = json.loads(SEED.read_text())["results"]
    shared = case.keys() & example.keys()
    assert len(shared) >= 11
    for name in shared - {"task_type"}:
        assert type(case[name]) is type(example[name]), name


def test_pages_of_use_cases_link_to_each_other(client, store):
    for slug in "abc":
        store.open_run(make_info(key=slug, usecase=replace(USECASE, slug=slug)))
    first = client.get("/api/usecases/?page_size=2").json()
    assert (first["count"], len(first["results"]), first["previous"]) == (3, 2, None)
    second = client.get(first["next"]).json()
    assert (len(second["results"]), second["next"]) == (1, None)
    assert client.get(second["previous"]).json() == first


def test_leaderboard_and_run_as_json(client, run_id):
    board = client.get("/api/usecases/heart/leaderboard").json()
    (entry,) = board["results"]
    assert (entry["rank"], entry["team_name"], entry["final_score"]) == (1, "aorta", 0.8)
    assert entry["curve"] == [[0, 0.5], [1, 0.75], [2, 0.8]]
    run = client.get(f"/api/runs/{run_id}").json()
    assert (run["status"], run["usecase_slug"], run["final_round"]) == ("finished", "heart", 2)
    assert len(run["rounds"]) == 3


def test_epsilon_is_a_column_only_where_privacy_is_spent(client, store, run_id):
    assert "Epsilon" not in client.get("/usecases/heart").text
    assert "Epsilon" not in client.get(f"/runs/{run_id}").text
    private = store.open_run(make_info("runs/private"))
    store.record_round(private, make_record(0, 0.5))
    store.record_round(private, make_record(1, 0.6, epsilon=2.625))
    assert "2.625" in client.get("/usecases/heart").text
    assert "2.625" in client.get(f"/runs/{private}").text
    page = client.get(f"/api/runs/{private}/rounds?since=1").json()
    assert page["results"][0]["epsilon"] == 2.625


def test_rounds_can_be_read_from_a_round_on(client, run_id):
    page = client.get(f"/api/runs/{run_id}/rounds?since=1&page_size=1").json()
    assert (page["count"], [item["round"] for item in page["results"]]) == (2, [1])
    page = client.get(page["next"]).json()
    assert [item["round"] for item in page["results"]] == [2]
    assert page["results"][0]["sites"][1]["reason"] == "no reply within 5 s"
    assert client.get(f"/api/runs/{run_id}/rounds?since=9").json()["results"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/usecases/nope/",
        "/api/usecases/nope/leaderboard",
        "/api/runs/99",
        "/api/runs/99/rounds",
        "/api/runs/abc",
        "/api/runs/0",
        "/api/runs/999999999999999999999999",
        "/api/nothing",
    ],
)
def test_what_is_not_there_is_a_404_in_one_shape(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["status"], error["code"]) == (404, "not_found")
    assert error["message"]


def test_bad_query_and_method_have_the_same_error_shape(client):
    answer = client.get("/api/usecases/?page=0")
    assert (answer.status_code, answer.json()["error"]["status"]) == (422, 422)
    assert "page" in answer.json()["error"]["message"]
    answer = client.post("/api/usecases/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_unreachable_database_is_a_503(client, store, tmp_path):
    store.close()
    (tmp_path / "board.sqlite").write_bytes(b"x" * 4096)
    for leftover in tmp_path.glob("board.sqlite-*"):
        leftover.unlink()
    answer = client.get("/api/usecases/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert client.get("/").status_code == 503


def test_non_finite_numbers_never_reach_the_json(client, store):
    run_id = store.open_run(make_info(config={"x": math.nan}))
    store.record_round(run_id, make_record(0, math.inf))
    store.record_round(run_id, make_record(1, -1.7e308))
    store.record_round(run_id, make_record(2, 1.7e308))
    paths = ("usecases/", "usecases/heart/leaderboard", f"runs/{run_id}", f"runs/{run_id}/rounds")
    for path in paths:
        text = client.get(f"/api/{path}").text
        assert not re.search(r"\b(NaN|Infinity)\b", text)
        json.loads(text)
    assert client.get("/usecases/heart").status_code == 200
    assert client.get(f"/runs/{run_id}").status_code == 200


def test_interface_is_described_without_foreign_assets(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/api/usecases/",
        "/api/usecases/{slug}/",
        "/api/usecases/{slug}/leaderboard",
        "/api/runs/{run_id}",
        "/api/runs/{run_id}/rounds",
    }
    text = client.get("/docs").text
    assert all(path in text for path in paths)


@pytest.mark.parametrize("path", ["/", "/usecases/heart", "/runs/1", "/docs", "/runs/99"])
def test_pages_obey_their_content_policy(client, run_id, path):
    answer = client.get(path)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    for tag, attributes in Elements(answer.text).found:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "style"
        assert tag != "script" or attributes == {"src": "/static/board.js", "defer": None}
        for name in ("src", "href"):
            assert not (attributes.get(name) or "").startswith(("http:", "https:", "//", "data:"))


def test_hostile_names_are_escaped_everywhere(client, store):
    usecase = replace(
        *(USECASE,), slug='a"b<i>', title=HOSTILE, description=HOSTILE, score=ScoreRule(HOSTILE)
    )
    info = make_info(key=HOSTILE, team=HOSTILE, usecase=usecase, config={HOSTILE: HOSTILE})
    run_id = store.open_run(info)
    store.record_round(run_id, make_record(0, 0.5, reason=HOSTILE))
    store.record_round(run_id, make_record(1, 0.5, reason=HOSTILE))
    store.finish_run(run_id, "failed", HOSTILE)
    for path in ("/", "/usecases/a%22b%3Ci%3E", f"/runs/{run_id}", "/usecases/%3Cscript%3E"):
        text = client.get(path).text
        assert "alert" not in text or "&lt;script&gt;alert" in text
        assert "<script>alert" not in text
        assert "<i>" not in text.replace('<i aria-hidden="true">', "")
    assert client.get("/usecases/a%22b%3Ci%3E").status_code == 200


def test_ranking_page_shows_every_column(client, run_id):
    text = client.get("/usecases/heart").text
    for shown in ("aorta", "mlp", "0.9000", "0.5000", "0.8000", "+0.3000", "0.7000", "fedavg"):
        assert shown in text
    assert "1\u202f234" in text
    assert text.count("<svg") == 3  # brand, one spark line, the overlay


def test_run_page_shows_metrics_sites_and_reasons(client, run_id):
    text = client.get(f"/runs/{run_id}").text
    for shown in ("auroc", "± 0.0020", "Subgroup: female", "needs 100 rows", "Sites in round 2"):
        assert shown in text
    assert "no reply within 5 s" in text
    assert 'title="needs 100 rows"' in text
    assert "Sites in round 1" in client.get(f"/runs/{run_id}?round=1").text
    assert client.get(f"/runs/{run_id}?round=77").status_code == 200


def test_tables_and_pictures_are_accessible(client, run_id):
    for path in ("/usecases/heart", f"/runs/{run_id}"):
        found = Elements(client.get(path).text).found
        assert all("scope" in attributes for tag, attributes in found if tag == "th")
        assert sum(tag == "h1" for tag, _ in found) == 1
        pictures = [attributes for tag, attributes in found if tag == "svg"]
        assert all("aria-hidden" in item or item["role"] == "img" for item in pictures)
        assert [a["lang"] for tag, a in found if tag == "html"] == ["en"]


def test_only_a_running_page_refreshes_itself(client, store, run_id):
    assert "http-equiv" not in client.get(f"/runs/{run_id}").text
    store.finish_run(run_id, "running")
    for path in (f"/runs/{run_id}", "/usecases/heart"):
        text = client.get(path).text
        assert '<noscript><meta http-equiv="refresh"' in text
        assert 'data-running="1"' in text


def test_page_stamp_is_the_jsons(client, run_id):
    (stamp,) = re.findall(r'data-stamp="([^"]+)"', client.get(f"/runs/{run_id}").text)
    updated = client.get(f"/api/runs/{run_id}").json()["updated_date"]
    assert updated.replace("Z", "+00:00") == stamp


def test_empty_board_and_missing_page(client):
    assert "Nothing here yet" in client.get("/").text
    answer = client.get("/runs/99")
    assert answer.status_code == 404
    assert "Not found" in answer.text
    assert client.head("/").status_code == 200
    assert client.get("/static/board.css").status_code == 200
    assert client.get("/static/../web.py").status_code == 404


def test_background_board_fills_while_rounds_arrive(url):
    with serve_in_background(url, "127.0.0.1", 0) as board, Store(url) as store:
        assert httpx.get(f"{board.url}/api/usecases/").json()["count"] == 0
        run_id = store.open_run(make_info())
        store.record_round(run_id, make_record(0, 0.5))
        assert httpx.get(f"{board.url}/api/runs/{run_id}").json()["baseline_score"] == 0.5
        address = board.url
    board.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/")


def test_taken_port_is_one_line_with_a_cure(url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for start in (serve, serve_in_background):
            with pytest.raises(
                LinkError, match=f"port {port} on 127.0.0.1 is in use.*another port"
            ):
                start(url, "127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "cure"),
    [
        ("no.such.host.invalid", 0, "use 127.0.0.1"),
        ("127.0.0.1", 70000, "port 70000 does not exist"),
        ("203.0.113.7", 0, "an address of this machine"),
    ],
)
def test_bad_address_is_one_line_with_a_cure(url, host, port, cure):
    with pytest.raises(LinkError, match=cure):
        serve_in_background(url, host, port)


def test_bad_store_is_said_before_the_port_is_taken():
    with pytest.raises(ConfigError, match="is not a database URL"):
        serve_in_background("nonsense", "127.0.0.1", 0)
