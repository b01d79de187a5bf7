"""Which site a node stands for: the operator says so, never the server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from fl_client import site_lookup as locate
from fl_client.site_lookup import site_of
from fl_common.errors import ConfigError
from fl_server.runtimes.simulated_sites import simulated_site


def context(run_id: int = 7, run_config: dict | None = None, **node_config: object) -> Context:
    return Context(
        run_id=run_id,
        node_id=2,
        node_config=node_config,
        state=RecordDict(),
        run_config=run_config or {},
    )


@pytest.fixture(autouse=True)
def forget():
    locate._read_cached.cache_clear()
    locate._simulated.cache_clear()


@pytest.fixture
def sites_file(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "mine" / "sites-7.jsonl"
    path.parent.mkdir()
    monkeypatch.setattr(locate, "simulated_sites_file", lambda run_id: path)
    return path


def simulated(name: str) -> str:
    return simulated_site({"name": name, "data": {"train": "a.csv"}})


def test_file_wins_over_everything_else(site, sites_file):
    assert site_of(site.context).name == "clinic"
    both = context(site=str(site.path), **{"site-json": simulated("b"), "partition-id": 0})
    assert site_of(both).name == "clinic"


def test_site_of_the_server_s_run_config_is_not_looked_at(site):
    asked = context(run_config={"site": str(site.path), "site-json": simulated("b")})
    with pytest.raises(ConfigError, match="this node has no site"):
        site_of(asked)


def test_inline_site_is_read():
    assert site_of(context(**{"site-json": simulated("b")})).name == "b"


def test_partition_picks_its_line(sites_file):
    sites_file.write_text("\n".join([simulated("a"), simulated("b")]))
    assert [site_of(context(**{"partition-id": i})).name for i in range(4)] == ["a", "b"] * 2


@pytest.mark.parametrize("content", [None, "", "{\n", "[]\n"])
def test_damaged_sites_file_is_a_config_error(sites_file, content):
    if content is not None:
        sites_file.write_text(content)
    with pytest.raises(ConfigError):
        site_of(context(**{"partition-id": 0}))


@pytest.mark.parametrize("whose", ["file", "folder"])
def test_sites_file_of_another_user_is_not_read(sites_file, monkeypatch, whose):
    sites_file.write_text(simulated("a"))
    stranger = sites_file if whose == "file" else sites_file.parent
    real = Path.stat

    def stat(self, **kwargs):
        result = real(self, **kwargs)
        if self != stranger:
            return result
        values = list(result)
        values[4] = os.getuid() + 1
        return os.stat_result(values)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ConfigError, match="belongs to another user"):
        site_of(context(**{"partition-id": 0}))


def test_simulated_policy_is_written_by_the_simulation():
    raw = json.loads(simulated("a"))
    expected = {"min_rows": 1, "min_subgroup_rows": 1, "custom_code": True, "plugins": []}
    assert raw["policy"] == expected
