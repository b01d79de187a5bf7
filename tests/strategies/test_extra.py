"""Arrays beside the model: what may leave a site, and what the server takes."""

import sys
import types

import numpy as np
import pytest
from quadratic_task import minima, random_sites

from fl_server.runtimes.simulation import InProcessGrid
from strategies.fedavg import FedAvg
from strategies.local import LocalResult
from strategies.registry import client_update
from strategies.wire.messages import EXTRA


class Counts(FedAvg):
    """Sends and expects one array that is no weight."""

    client_update = "extra_half:update"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.total = None

    def extra(self):
        return {"tally": self.total if self.total is not None else np.zeros(2, dtype=np.float32)}

    def expected_extra(self):
        return self.extra()

    def update(self, fold):
        self.total = fold.extra["tally"]
        return fold.mean


@pytest.fixture
def half(monkeypatch):
    """Let a test say what the site sends as extra, from what it received."""
    module = types.ModuleType("extra_half")
    module.extra = lambda local: {"tally": local.extra["tally"] + 1}
    module.update = lambda local: LocalResult(local.train(), module.extra(local))
    monkeypatch.setitem(sys.modules, "extra_half", module)
    client_update.cache_clear()
    yield module
    client_update.cache_clear()


def statuses(federation, strategy, **options):
    history = federation(strategy, random_sites(3), rounds=1, may_fail=True, **options)
    return [(s.status, s.reason) for s in history.records[1].sites if s.phase == "train"]


def test_extra_arrays_travel_both_ways(federation, half):
    strategy = Counts(**minima())
    federation(strategy, random_sites(3), rounds=4)
    np.testing.assert_array_equal(strategy.total, np.full(2, 4, np.float32))


@pytest.mark.parametrize(
    "extra",
    [
        {"tally": np.zeros(3, np.float32)},
        {"tally": np.zeros(2, np.float64)},
        {"tally": np.array([np.nan, 0], np.float32)},
        {"rows": np.zeros(2, np.float32)},
        {"tally": np.zeros(2, np.float32), "rows": np.zeros(2, np.float32)},
    ],
)
def test_what_was_not_sent_in_that_form_does_not_leave(federation, half, extra):
    half.extra = lambda local: extra
    for status, reason in statuses(federation, Counts(**minima())):
        assert status == "failed"
        assert "egress guard" in reason


def test_reply_without_the_expected_arrays_is_refused(federation, half):
    half.extra = lambda local: {}
    for status, reason in statuses(federation, Counts(**minima())):
        assert status == "refused"
        assert "'tally'" in reason


def test_weights_as_extra_are_refused_where_none_are_expected(federation, half):
    class Unasked(FedAvg):
        client_update = "extra_half:update"

    half.extra = lambda local: {"body": local.received["body"]}
    for status, reason in statuses(federation, Unasked(**minima())):
        assert status == "refused"
        assert "extra arrays ['body'] are missing or were not asked for" in reason


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (lambda record: record["tally"].__setattr__("shape", (1, 2)), "expected float32"),
        (lambda record: record["tally"].__setattr__("data", b"x" * 9999), "oversized"),
    ],
)
def test_server_checks_extra_arrays_by_itself(federation, half, tamper, why):
    class Tampers(InProcessGrid):
        def _deliver(self, message):
            reply = super()._deliver(message)
            if message.metadata.message_type == "train":
                tamper(reply.content[EXTRA])
            return reply

    _, config, _ = federation.loop(Counts(**minima()), random_sites(3))
    for status, reason in statuses(federation, Counts(**minima()), grid=Tampers(config.site_data)):
        assert status == "refused"
        assert why in reason


def test_extra_bytes_are_counted(federation, half):
    def traffic(strategy):
        record = federation(strategy, random_sites(3), rounds=1).records[1]
        trained = [site for site in record.sites if site.phase == "train"]
        return sum(s.bytes_up for s in trained), sum(s.bytes_down for s in trained)

    ours, plain = traffic(Counts(**minima())), traffic(FedAvg(**minima()))
    assert ours[0] - plain[0] > 3 * 8
    assert ours[1] - plain[1] > 3 * 8
