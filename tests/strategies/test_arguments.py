"""A strategy's arguments out of range stop the launch with their key, whatever else is right."""

import math
import re

import numpy as np
import pytest

from fl_common.errors import ConfigError
from fl_server.config.instantiation import make_strategy
from strategies.arguments import check_number, check_whole, check_whole_or_null

RANGES = {
    "krum.Krum": {"num_malicious_nodes": ([0, 2, None], [-1, 1.5, "1", True])},
    "krum.MultiKrum": {
        "num_malicious_nodes": ([0, None], [-1, 1.5]),
        "num_nodes_to_select": ([1, 3, None], [0, -1, 2.5]),
    },
    "bulyan.Bulyan": {"num_malicious_nodes": ([0, 1, None], [-1, 0.5])},
    "trimmed_mean.TrimmedMean": {"beta": ([0, 0.49], [-0.1, 0.5, math.nan])},
    "fedprox.FedProx": {"proximal_mu": ([0, 1], [-0.1, math.inf])},
    "fedavgm.FedAvgM": {
        "server_learning_rate": ([0.5, 2], [0, -1]),
        "server_momentum": ([0, 0.99], [-0.1, 1]),
    },
    "scaffold.Scaffold": {"server_lr": ([0.5, 1], [0, -1, math.nan])},
    "feddyn.FedDyn": {"alpha": ([0.1], [0, -1, math.inf])},
    "fedlc.FedLC": {"tau": ([0, 1], [-1])},
    "ditto.Ditto": {"lam": ([0, 1], [-1])},
    "qfedavg.QFedAvg": {"q": ([0, 1], [-0.1]), "client_learning_rate": ([0.1], [0, -1])},
    "fednova.FedNova": {"momentum": ([0, 0.9], [-0.1, 1])},
    "fedbuff.FedBuff": {
        "buffer_size": ([1, 3], [0, -1, 2.5]),
        "server_lr": ([1], [0, -1]),
        "staleness_exponent": ([0, 0.5], [-0.5]),
    },
}
ADAPTIVE = {"eta": ([0.1], [0, -1]), "tau": ([1e-3], [0, -1])}
BETAS = {key: ([0, 0.99], [-0.1, 1]) for key in ("beta_1", "beta_2")}
RANGES |= {
    "fedadagrad.FedAdagrad": ADAPTIVE,
    "fedadam.FedAdam": ADAPTIVE | BETAS,
    "fedyogi.FedYogi": ADAPTIVE | BETAS,
}
NEEDED = {"qfedavg.QFedAvg": {"client_learning_rate": 0.1}}
CASES = [
    (name, key, value, fits)
    for name, keys in RANGES.items()
    for key, (good, bad) in keys.items()
    for fits, values in ((True, good), (False, bad))
    for value in values
]


@pytest.mark.parametrize(("name", "key", "value", "fits"), CASES)
def test_argument_is_checked_when_the_strategy_is_made(name, key, value, fits):
    config = {"_target_": f"strategies.{name}", **NEEDED.get(name, {}), key: value}
    if fits:
        make_strategy(config)
        return
    with pytest.raises(
        ConfigError, match=rf"strategy\.{key} must be .*, got {re.escape(repr(value))}"
    ):
        make_strategy(config)


def test_message_says_what_it_may_be():
    with pytest.raises(
        ConfigError, match=r"strategy\.x must be a number, at least 0, below 1, got"
    ):
        check_number("x", 1, least=0, below=1)
    with pytest.raises(ConfigError, match=r"strategy\.x must be a number, above 0, got 'a'"):
        check_number("x", "a", above=0)
    with pytest.raises(ConfigError, match=r"strategy\.x must be a whole number, at least 1, got"):
        check_whole("x", 0, least=1)
    with pytest.raises(ConfigError, match=r"strategy\.x must be null or whole, at least 1, got 0"):
        check_whole_or_null("x", 0, least=1)


def test_numpys_numbers_are_numbers():
    assert check_number("x", np.float32(0.5), least=0) == 0.5
    assert check_whole("x", np.int64(3), least=1) == 3
    assert type(check_whole("x", np.int64(3), least=1)) is int
