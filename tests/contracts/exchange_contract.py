"""What every exchange promises the round loop, whichever way its messages travel.

A test class per implementation inherits ``ExchangeContract`` and names its strategy and privacy.
Sites, clients and messages are real; the task is the quadratic one.
"""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fl_common.errors import QuorumError
from fl_server.config.run_config import SitesConfig
from fl_server.runtimes.simulation import InProcessGrid
from strategies.privacy.modes import NoPrivacy
from tasks import registry
from tests.strategies.quadratic_task import Federation, random_sites

NUM_SITES = 5
NAMES = [f"site_{index:02d}" for index in range(NUM_SITES)]
FIRST_NODE = 2


class LossyGrid(InProcessGrid):
    """Sites named in ``lost`` never answer a request of these kinds."""

    lost = frozenset()
    kinds = ("train", "evaluate")

    def _deliver(self, message: Message) -> Message:
        site = NAMES[message.metadata.dst_node_id - FIRST_NODE]
        if site in self.lost and message.metadata.message_type in self.kinds:
            message.metadata.__dict__["_message_id"] = f"lost-{site}"
            return Message(Error(ErrorCode.NODE_UNAVAILABLE, "gone"), reply_to=message)
        return super()._deliver(message)


class ExchangeContract:
    """Subclass it; give ``make_strategy`` and, where it is not the default, ``privacy``."""

    privacy = NoPrivacy()
    tolerance = 1e-12

    def make_strategy(self, base=None):
        """Return a strategy whose plain mean over all sites is the new model."""
        raise NotImplementedError

    def strategy_class(self):
        """Return the class that ``make_strategy`` instantiates, to break one of its hooks."""
        raise NotImplementedError

    @pytest.fixture
    def sites(self):
        return random_sites(NUM_SITES, rows=10)

    @pytest.fixture
    def open_setting(self, tmp_path, monkeypatch, sites):
        """Return a function: a run on the sites, up to its first round."""
        reference = "tests.strategies.quadratic_task:QuadraticTask"
        monkeypatch.setitem(registry._TASKS, "quadratic", reference)

        def make(strategy=None, on=sites, **options):
            return Federation(tmp_path).exchange(
                strategy or self.make_strategy(),
                on,
                grid=LossyGrid,
                privacy=self.privacy,
                **options,
            )

        return make

    @pytest.fixture
    def start(self):
        return {"body": np.zeros(4)}

    def test_training_returns_a_new_model_in_the_form_that_was_sent(self, open_setting, start):
        outcome = open_setting().exchange.train(1, start)
        assert (outcome.status, outcome.reason) == ("ok", "")
        assert outcome.arrays["body"].shape == (4,)
        assert outcome.arrays["body"].dtype == np.float64
        assert np.abs(outcome.arrays["body"]).max() > 0.01
        assert outcome.loss > 0

    def test_training_leaves_the_model_that_it_was_given(self, open_setting, start):
        open_setting().exchange.train(1, start)
        np.testing.assert_array_equal(start["body"], np.zeros(4))

    def test_every_site_is_accounted_for_by_name(self, open_setting, start):
        exchange = open_setting().exchange
        for outcome, phase in (
            (exchange.train(1, start), "train"),
            (exchange.evaluate(1, start), "evaluate"),
        ):
            assert [site.site for site in outcome.sites] == NAMES
            assert {site.phase for site in outcome.sites} == {phase}
            assert {site.status for site in outcome.sites} == {"ok"}
            assert all(site.bytes_up and site.bytes_down for site in outcome.sites)
            assert {site.num_examples for site in outcome.sites} == {10}

    def test_evaluation_pools_every_site(self, open_setting, start, sites):
        stats = open_setting().exchange.evaluate(0, start).stats
        assert int(stats["overall/rows"]) == 10 * NUM_SITES
        expected = sum(10 * site.loss(start["body"]) for site in sites)
        assert float(stats["overall/loss"]) == pytest.approx(expected, rel=1e-9)

    def test_validation_asks_the_sites_that_have_such_rows(self, open_setting, start):
        from dataclasses import replace

        sites = [
            replace(site, validation=3 * (index > 0))
            for index, site in enumerate(random_sites(NUM_SITES, rows=10))
        ]
        exchange = open_setting(on=sites).exchange
        outcome = exchange.evaluate(0, start, split="validation")
        assert int(outcome.stats["overall/rows"]) == 3 * (NUM_SITES - 1)
        assert [site.site for site in outcome.sites] == NAMES[1:]
        assert {(s.phase, s.status, s.num_examples) for s in outcome.sites} == {
            ("validate", "ok", 3)
        }
        assert int(exchange.evaluate(0, start).stats["overall/rows"]) == 10 * NUM_SITES

    def test_lost_site_costs_its_own_contribution_and_is_named(self, open_setting, start):
        setting = open_setting()
        setting.federation.grid.lost = {NAMES[1]}
        trained = setting.exchange.train(1, start)
        evaluated = setting.exchange.evaluate(1, start)
        for outcome in (trained, evaluated):
            status = {site.site: site.status for site in outcome.sites}
            assert status.pop(NAMES[1]) == "absent"
            assert set(status.values()) == {"ok"}
        assert trained.arrays is not None
        assert int(evaluated.stats["overall/rows"]) == 10 * (NUM_SITES - 1)

    def test_round_without_replies_fails_and_keeps_the_model(self, open_setting, start):
        setting = open_setting()
        setting.federation.grid.lost = set(NAMES)
        outcome = setting.exchange.train(1, start)
        assert (outcome.status, outcome.arrays) == ("failed", None)
        assert outcome.reason
        setting.federation.grid.lost = set()
        assert setting.exchange.train(2, start).status == "ok"

    def test_evaluation_without_replies_names_the_sites(self, open_setting, start):
        setting = open_setting()
        setting.federation.grid.lost = set(NAMES)
        with pytest.raises(QuorumError, match="continue with fl-server resume="):
            setting.exchange.evaluate(1, start)

    def test_evaluation_below_quorum_is_an_error(self, open_setting, start):
        waits = SitesConfig(rejoin_seconds=0.0, quorum=NUM_SITES)
        setting = open_setting(waits=waits)
        setting.federation.grid.lost = {NAMES[4]}
        with pytest.raises(QuorumError, match=r"round 3: 4 of 5 sites .*site_04"):
            setting.exchange.evaluate(3, start)

    @pytest.mark.parametrize("hook", ["configure_train", "aggregate_train"])
    def test_strategy_that_fails_is_as_it_was_and_says_where(self, open_setting, start, hook):
        base = self.strategy_class()
        real = getattr(base, hook)

        def breaks(strategy, number, *rest):
            if number == 1:
                strategy.touched = 5
                raise KeyError("mine")
            return real(strategy, number, *rest)

        broken = type("Broken", (base,), {hook: breaks, "touched": 0})
        strategy = self.make_strategy(broken)
        strategy.touched = 0
        setting = open_setting(strategy)
        outcome = setting.exchange.train(1, start)
        assert (outcome.status, outcome.arrays) == ("failed", None)
        assert "KeyError: 'mine'" in outcome.reason
        assert strategy.touched == 0
        assert [site.site for site in setting.exchange.evaluate(1, start).sites] == NAMES

    def test_model_of_another_shape_is_refused(self, open_setting, start):
        from strategies.wire.records import pack_arrays

        def reshaped(strategy, number, replies):
            list(replies)
            return pack_arrays({"body": np.zeros(7)}), None

        broken = type("Broken", (self.strategy_class(),), {"aggregate_train": reshaped})
        outcome = open_setting(self.make_strategy(broken)).exchange.train(1, start)
        assert (outcome.status, outcome.arrays) == ("failed", None)
        assert "expected (4,)" in outcome.reason

    def test_rounds_are_those_of_the_plain_mean(self, open_setting, start, sites):
        from tests.strategies.quadratic_task import descend

        exchange, arrays = open_setting().exchange, start
        expected = start["body"]
        for number in (1, 2, 3):
            arrays = exchange.train(number, arrays).arrays
            expected = np.mean([descend(site, expected) for site in sites], axis=0)
            np.testing.assert_allclose(arrays["body"], expected, atol=self.tolerance)
