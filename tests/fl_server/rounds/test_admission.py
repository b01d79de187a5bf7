"""Who takes part, by what a node says of itself."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Error

from fl_common.errors import QuorumError
from fl_server.config.run_config import SitesConfig
from fl_server.results.records import RoundRecord, SiteRecord
from fl_server.rounds.admission import Admission
from strategies.wire.messages import DESCRIBE, FIT, SiteReply
from strategies.wire.refusal import Refusal
from tasks.scores import ScoreCard, Scores
from tasks.stats import Stats
from tests.fl_server.rounds.fake_grid import FakeGrid


def says(name, rows=10, **more):
    stats = Stats({"rows": np.array(rows)})
    return lambda _: SiteReply(name, rows, 4, stats, **more).to_records()


@pytest.fixture
def admit(caplog):
    """Return a function: an admission of nodes that answer so, after its start."""
    caplog.set_level(logging.CRITICAL, "fedleague.server")

    def make(answers, **waits):
        grid = FakeGrid(answers)
        waits = {"wait_seconds": 0.0, "rejoin_seconds": 0.0, **waits}
        state = SimpleNamespace(job_text="job")
        admission = Admission(grid, SitesConfig(**waits), state, num_past=2)
        return admission, grid, admission.start(len(answers))

    return make


def test_sites_are_admitted_and_their_summands_pooled(admit):
    admission, grid, pooled = admit({2: says("b", 10), 3: says("a", 20, num_validation=5)})
    assert [(s.name, s.node_id, s.num_train) for s in admission.registry] == [
        ("a", 3, 20),
        ("b", 2, 10),
    ]
    assert admission.registry.site("a").num_validation == 5
    assert int(pooled["rows"]) == 30
    assert {kind for _, kind in grid.asked} == {FIT}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: Error(Refusal.SCHEMA.code, "x"), Refusal.SCHEMA.text),
        (lambda _: Error(7, "x"), "the site failed (code 7)"),
        (says("a"), "already called 'a'"),
        (lambda _: SiteReply("c", 5, 1, Stats({"rows": np.array(99)})).to_records(), "outside"),
    ],
)
def test_node_that_cannot_take_part_is_named_and_the_others_can(admit, answer, reason):
    admission, _, pooled = admit({2: says("a"), 3: answer})
    assert [site.name for site in admission.registry] == ["a"]
    assert int(pooled["rows"]) == 10
    (refused,) = admission.refused
    assert (refused.site, refused.phase, refused.status) == ("node 3", "fit", "refused")
    assert reason in refused.reason


def test_too_few_sites_that_can_take_part_are_told(admit):
    answers = {2: says("a"), 3: lambda _: Error(Refusal.DATA.code, "")}
    with pytest.raises(QuorumError, match=r"1 of 2 sites can take part \(node 3: .*data"):
        admit(answers, quorum=2)


def test_site_that_comes_back_on_a_new_node_is_described_once(admit):
    admission, grid, _ = admit({2: says("a"), 3: says("b")})
    grid.asked.clear()
    grid.answers = {3: says("b"), 8: says("a", 12)}
    admission.refresh()
    admission.refresh()
    assert grid.asked == [(8, DESCRIBE)]
    assert admission.registry.site("a").node_id == 8
    assert admission.registry.site("a").num_train == 12


def test_gathering_waits_once_for_a_site_that_left(admit):
    admission, grid, _ = admit({2: says("a"), 3: says("b")}, rejoin_seconds=0.05)
    del grid.answers[2]
    assert [site.name for site in admission.gather()] == ["b"]
    assert [site.name for site in admission.gather()] == ["b"]
    grid.answers[2] = says("a")
    assert [site.name for site in admission.gather()] == ["a", "b"]


def test_site_forgets_when_it_remembers_less_than_it_trained(admit):
    admission, _, _ = admit({2: says("a", memory_round=3), 3: says("b", memory_round=1)})

    def trained(number, *names, status="ok"):
        sites = tuple(SiteRecord(name, "train", "ok") for name in names)
        return RoundRecord(number, "finetune", status, 0.5, ScoreCard(Scores()), sites, 0.0, 0, 0)

    past = [trained(1, "a", "b"), trained(2, "a"), trained(3, "a", "b", status="failed")]
    assert admission.forgetful(past) == []
    assert admission.forgetful([*past, trained(4, "b")]) == ["b"]
    assert admission.forgetful([*past, trained(4, "away")]) == ["away"]
