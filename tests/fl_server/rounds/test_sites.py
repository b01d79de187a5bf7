"""Who the sites are, and what a strategy sees of them."""

from __future__ import annotations

import pytest
from flwr.app import RecordDict

from fl_common.errors import QuorumError
from fl_server.config.run_config import SitesConfig
from fl_server.rounds.sites import SiteGrid, addressed, settled_nodes, wait_for_nodes
from tests.fl_server.rounds.fake_grid import FakeGrid, registry_of, site


def nodes(*ids):
    return FakeGrid({node: lambda _: None for node in ids})


def test_sites_are_listed_by_name_whatever_their_nodes():
    registry = registry_of(site("b", 2), site("c", 3), site("a", 9))
    assert [entry.name for entry in registry] == ["a", "b", "c"]
    assert [entry.name for entry in registry.online(nodes(2, 9))] == ["a", "b"]
    assert "a" in registry
    assert "x" not in registry


def test_site_that_restarts_keeps_its_name_on_a_new_node():
    registry = registry_of(site("a", 2), site("a", 7, num_train=11))
    assert len(registry) == 1
    assert registry.name_of(2) is None
    assert registry.name_of(7) == "a"
    assert registry.site("a").num_train == 11


def test_site_declares_the_rows_of_each_split():
    entry = site("a", 2, num_validation=3)
    assert [entry.num_rows(s) for s in ("train", "validation", "holdout")] == [10, 3, 4]
    with pytest.raises(KeyError):
        entry.num_rows("test")


def test_strategy_sees_chosen_sites_and_counts_all():
    registry = registry_of(site("a", 4), site("b", 3), site("c", 2))
    grid = SiteGrid(nodes(2, 3, 4, 99), registry, {"a", "c"})
    assert grid.get_node_ids() == [4, 2]
    assert grid.connected == [4, 3, 2]
    assert (grid.num_sites, grid.num_examples) == (3, 30)
    assert SiteGrid(nodes(3), registry).get_node_ids() == [3]


def test_too_few_nodes_at_the_deadline_are_told():
    waits = SitesConfig(quorum=3, wait_seconds=0.0)
    with pytest.raises(QuorumError, match="2 of 3 sites joined within 0 s"):
        wait_for_nodes(nodes(2, 3), waits, 3)
    assert wait_for_nodes(nodes(2, 3), SitesConfig(quorum=2, wait_seconds=0.0), 3) == [2, 3]
    assert wait_for_nodes(nodes(2, 3), SitesConfig(), 2) == [2, 3]


def test_nodes_are_settled_when_their_number_stays():
    assert settled_nodes(nodes(2, 3, 4)) == 3


def test_all_messages_share_one_content():
    FakeGrid({})
    content = RecordDict()
    messages = addressed(content, "train", [site("a", 2), site("b", 3)])
    assert [message.metadata.dst_node_id for message in messages] == [2, 3]
    assert all(message.content is content for message in messages)
