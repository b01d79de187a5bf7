"""The plain way through a phase, and which way a run takes."""

from __future__ import annotations

import pytest

from fl_server.rounds.async_exchange import AsyncExchange
from fl_server.rounds.plain_exchange import PlainExchange
from fl_server.rounds.secagg_exchange import SecaggExchange
from strategies.fedavg import FedAvg
from strategies.fedbuff import FedBuff
from strategies.privacy.modes import CentralFixed, NoPrivacy, SecureAggregation
from tests.contracts.exchange_contract import NAMES, ExchangeContract
from tests.strategies.quadratic_task import Federation, minima, random_sites


class TestPlainExchange(ExchangeContract):
    def make_strategy(self, base=FedAvg):
        return (base or FedAvg)(**minima())

    def strategy_class(self):
        return FedAvg

    def test_sites_say_their_losses(self, open_setting, start):
        outcome = open_setting().exchange.train(1, start)
        assert all(site.loss > 0 for site in outcome.sites)

    def test_too_few_replies_keep_the_model(self, open_setting, start):
        from fl_server.config.run_config import SitesConfig

        setting = open_setting(waits=SitesConfig(rejoin_seconds=0.0, quorum=5))
        setting.federation.grid.lost = {NAMES[0]}
        outcome = setting.exchange.train(1, start)
        assert outcome.reason == "4 of 5 sites replied; previous model kept"


@pytest.mark.parametrize(
    ("strategy", "privacy", "kind"),
    [
        (FedAvg, NoPrivacy(), PlainExchange),
        (FedAvg, CentralFixed(), PlainExchange),
        (FedAvg, SecureAggregation(), SecaggExchange),
        (FedBuff, NoPrivacy(), AsyncExchange),
    ],
)
def test_strategy_and_privacy_choose_the_exchange(tmp_path, monkeypatch, strategy, privacy, kind):
    from tasks import registry

    reference = "tests.strategies.quadratic_task:QuadraticTask"
    monkeypatch.setitem(registry._TASKS, "quadratic", reference)
    setting = Federation(tmp_path).exchange(
        strategy(**minima()), random_sites(3, rows=5), privacy=privacy
    )
    assert type(setting.exchange) is kind
