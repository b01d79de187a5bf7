"""Training requests that outlive their round."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from fl_server.config.run_config import SitesConfig
from fl_server.runtimes.simulation import InProcessGrid
from strategies.fedbuff import FedBuff
from tests.contracts.exchange_contract import NAMES, NUM_SITES, ExchangeContract
from tests.strategies.quadratic_task import minima


class PatientStream:
    """Sites that work at their own pace: a reply comes when the test lets it."""

    concurrent = True

    def __init__(self, grid):
        self._grid = grid
        self.owed = deque()
        self.released = 0

    def send(self, messages):
        self.owed.extend(messages)

    def receive(self, timeout):
        if not self.owed or not self.released:
            return None
        self.released -= 1
        return self._grid._deliver(self.owed.popleft())

    def close(self):
        self.owed.clear()


class PatientGrid(InProcessGrid):
    def stream(self):
        self.replies = PatientStream(self)
        return self.replies


class TestAsyncExchange(ExchangeContract):
    def make_strategy(self, base=FedBuff):
        return (base or FedBuff)(
            buffer_size=NUM_SITES, server_lr=1.0, staleness_exponent=0.0, **minima()
        )

    def strategy_class(self):
        return FedBuff

    def test_lost_site_costs_its_own_contribution_and_is_named(self, open_setting, start):
        """A buffer for all sites waits for the next round's replies: the model stays."""
        setting = open_setting()
        setting.federation.grid.lost = {NAMES[1]}
        trained = setting.exchange.train(1, start)
        status = {site.site: site.status for site in trained.sites}
        assert status.pop(NAMES[1]) == "absent"
        assert set(status.values()) == {"ok"}
        evaluated = setting.exchange.evaluate(1, start)
        assert int(evaluated.stats["overall/rows"]) == 10 * (NUM_SITES - 1)

    @pytest.fixture
    def patient(self, tmp_path, monkeypatch, sites):
        from tasks import registry
        from tests.strategies.quadratic_task import Federation

        reference = "tests.strategies.quadratic_task:QuadraticTask"
        monkeypatch.setitem(registry._TASKS, "quadratic", reference)

        def make(**waits):
            return Federation(tmp_path).exchange(
                FedBuff(buffer_size=2, **minima()),
                sites,
                grid=PatientGrid,
                waits=SitesConfig(rejoin_seconds=0.0, **waits),
            )

        return make

    def test_late_reply_counts_in_the_round_in_which_it_comes(self, patient, start):
        setting = patient()
        stream = setting.federation.grid.replies
        stream.released = 2
        first = setting.exchange.train(1, start)
        status = [site.status for site in first.sites]
        assert status.count("ok") == 2
        assert status.count("training") == NUM_SITES - 2
        stream.released = 2
        second = setting.exchange.train(2, first.arrays)
        late = {s.site for s in second.sites if s.status == "ok" and not s.bytes_down}
        assert late <= {s.site for s in first.sites if s.status == "training"}
        assert len(late) == 2

    def test_busy_site_is_spared_the_evaluation_until_the_last_round(self, patient, start):
        setting = patient()
        setting.federation.grid.replies.released = 2
        first = setting.exchange.train(1, start)
        busy = {site.site for site in first.sites if site.status == "training"}
        evaluated = setting.exchange.evaluate(1, start)
        assert {s.site for s in evaluated.sites if s.status == "training"} == busy
        assert int(evaluated.stats["overall/rows"]) == 20
        last = setting.exchange.evaluate(setting.federation.config.rounds, start)
        assert {site.status for site in last.sites} == {"ok"}

    def test_site_that_exceeds_its_time_is_given_up_and_asked_again(self, patient, start):
        setting = patient(reply_seconds=1e-9)
        outcome = setting.exchange.train(1, start)
        assert {site.status for site in outcome.sites} == {"late"}
        assert outcome.reason == "0 of 1 sites replied; previous model kept"
        np.testing.assert_array_equal(start["body"], np.zeros(4))
