"""Masked sums as an exchange: what the strategy and the records see of them."""

from __future__ import annotations

import pytest

from fl_common.errors import QuorumError
from strategies.fedavg import FedAvg
from strategies.privacy.modes import SecureAggregation
from tests.contracts.exchange_contract import NAMES, ExchangeContract
from tests.strategies.quadratic_task import minima


class TestSecaggExchange(ExchangeContract):
    privacy = SecureAggregation()
    tolerance = 1e-6

    def make_strategy(self, base=FedAvg):
        return (base or FedAvg)(**minima())

    def strategy_class(self):
        return FedAvg

    def test_single_losses_stay_hidden(self, open_setting, start):
        outcome = open_setting().exchange.train(1, start)
        assert all(site.loss is None for site in outcome.sites)
        assert outcome.loss > 0

    def test_strategy_gets_one_mean_per_site(self, open_setting, start):
        seen = []

        class Watching(FedAvg):
            def aggregate_train(self, number, replies):
                replies = list(replies)
                seen.extend(reply.content["arrays"]["body"].data for reply in replies)
                return super().aggregate_train(number, replies)

        open_setting(self.make_strategy(Watching)).exchange.train(1, start)
        assert len(seen) == len(NAMES)
        assert len(set(seen)) == 1

    def test_two_sites_are_too_few_for_a_sum(self, open_setting, start):
        setting = open_setting()
        setting.federation.grid.lost = set(NAMES[2:])
        assert setting.exchange.train(1, start).status == "failed"
        with pytest.raises(QuorumError, match="cannot be evaluated"):
            setting.exchange.evaluate(1, start)

    def test_every_sum_has_a_name_of_its_own(self, open_setting, start):
        names = set()

        class Watching(FedAvg):
            def configure_train(self, number, arrays, config, grid):
                names.add(config["secagg-session"])
                return super().configure_train(number, arrays, config, grid)

        exchange = open_setting(self.make_strategy(Watching)).exchange
        for number in (1, 2):
            exchange.train(number, start)
        assert len(names) == 2
