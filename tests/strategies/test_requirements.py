"""What a strategy asks of a run is checked before any site is asked for anything."""

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from fl_common.errors import ConfigError, ReplyError
from fl_server.config.compatibility import check_run
from fl_server.config.instantiation import make_strategy
from strategies.bulyan import Bulyan
from strategies.cyclic import CyclicWeightTransfer
from strategies.fedadam import FedAdam
from strategies.fedavg import FedAvg
from strategies.fedbuff import FedBuff
from strategies.fednova import FedNova
from strategies.fedper import FedPer
from strategies.fedprox import FedProx
from strategies.krum import Krum
from strategies.qfedavg import QFedAvg
from strategies.requirements import (
    Requirements,
    check_class,
    check_sites,
    check_training,
    needs_single_updates,
    num_asked,
    requirements_of,
)
from strategies.sampling import BySize, PowerOfChoice, Stratified, Uniform
from strategies.scaffold import Scaffold
from tasks.contract import TrainConfig

HIDING = ["secagg", "central_fixed", "central_adaptive"]


class Looks(FedAvg):
    """Sees single replies, and does not say so."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, list(replies))


class LooksBelow(Looks):
    """The override is in a base."""


class Admits(Looks):
    """Hands the replies on without looking at one."""

    requirements = Requirements(single_updates=False)


class AdmitsAbove(Admits):
    """A base of the user's says so."""


class StockLooks(flower.FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, replies)


class Updates(FedAvg):
    """Works on the mean."""

    def update(self, fold):
        return fold.mean


class Wraps(flower.FedAvg):
    """Hands on to another strategy; its own rule looks at nothing."""

    requirements = Requirements(single_updates=False)

    def __init__(self, strategy):
        super().__init__()
        self.strategy = strategy


@pytest.mark.parametrize(
    ("strategy", "needs"),
    [
        (Looks(), True),
        (LooksBelow(), True),
        (StockLooks(), True),
        (Admits(), False),
        (AdmitsAbove(), False),
        (Updates(), False),
        (FedAdam(), False),
        (flower.FedAvgM(), False),
        (Wraps(FedAvg()), False),
        (Wraps(Krum()), True),
        (Wraps(Wraps(flower.FedMedian())), True),
        (flower.DifferentialPrivacyServerSideFixedClipping(Krum(), 0.0, 1.0, 2), True),
        (flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 1.0, 2), False),
    ],
)
def test_own_rules_that_may_look_at_replies_need_them(strategy, needs):
    assert needs_single_updates(strategy) == needs


class Sgd(FedAvg):
    requirements = Requirements(plain_sgd=True, not_saved=("scratch",))


class Relaxed(Sgd):
    """A base's need that this one does not have; what it leaves out the base says."""

    requirements = Requirements(plain_sgd=False, sgd=True)


def test_what_a_class_leaves_out_its_bases_say():
    needs = requirements_of(Relaxed())
    assert (needs.plain_sgd, needs.sgd, needs.weighting) == (False, True, "examples")
    assert {"sent_record", "scratch"} <= set(needs.not_saved)


def test_wrapped_strategies_count():
    needs = requirements_of(Wraps(Wraps(FedPer(layers="head.*"))))
    assert needs.local_layers == "head.*"
    assert needs.weighting == "examples"
    assert requirements_of(Wraps(FedBuff())).asynchronous
    assert requirements_of(Wraps(FedProx(weighting="uniform"))).weighting == "uniform"
    assert requirements_of(Wraps(Scaffold())).plain_sgd
    with pytest.raises(ConfigError, match="Scaffold holds for SGD at the sites"):
        check_training(Wraps(Scaffold()), None, TrainConfig(optimizer="adam"))


@pytest.mark.parametrize(
    ("strategy", "needs"),
    [
        (flower.FedXgbBagging(), {"trees": "new", "single_updates": True}),
        (flower.FedXgbCyclic(), {"trees": "whole", "in_turn": True}),
        (CyclicWeightTransfer(), {"in_turn": True, "own_weights": True}),
        (FedNova(momentum=0.5), {"sgd": True, "own_weights": True, "momentum": 0.5}),
        (QFedAvg(0.1), {"exact_losses": True, "own_weights": True, "single_updates": True}),
        (Scaffold(), {"tied_to_clients": ("variate",), "own_weights": None}),
        (Krum(), {"single_updates": True, "weighting": None, "expected_extra": None}),
    ],
)
def test_declarations(strategy, needs):
    found = requirements_of(strategy)
    assert {name: getattr(found, name) for name in needs} == needs


def test_extra_arrays_and_numbers_of_replies_come_from_the_methods():
    scaffold = Scaffold()
    scaffold.variate = {"w": np.ones(2)}
    assert requirements_of(scaffold).expected_extra()["w"].tolist() == [1, 1]
    assert requirements_of(FedAvg()).expected_extra is None
    with pytest.raises(ReplyError, match="at least 3 replies"):
        requirements_of(Krum()).check_replies(2)


@pytest.mark.parametrize("old", ["needs_plain_sgd", "is_asynchronous", "not_saved"])
def test_needs_declared_as_they_once_were_are_refused_with_the_new_way(old):
    kind = type("MyRule", (FedAvg,), {old: True})
    with pytest.raises(ConfigError, match=rf"MyRule: '{old}' is now declared as requirements ="):
        check_class(kind)


@pytest.mark.parametrize("privacy", HIDING)
def test_rule_that_privacy_would_blind_is_refused(compose, privacy):
    options = [f"privacy={privacy}", f"strategy._target_={__name__}."]
    with pytest.raises(ConfigError, match="Looks must see each site's update"):
        check_run(compose(options[0], options[1] + "Looks"))
    check_run(compose(options[0], options[1] + "Admits"))


@pytest.mark.parametrize("privacy", HIDING)
@pytest.mark.parametrize("inner", ["krum.Krum", "fednova.FedNova"])
def test_wrapper_does_not_hide_what_it_wraps(compose, privacy, inner):
    config = compose(
        f"privacy={privacy}",
        "train.optimizer=sgd",
        f"strategy._target_={__name__}.Wraps",
        f"+strategy.strategy={{_target_:strategies.{inner}}}",
    )
    with pytest.raises(ConfigError, match="each site's update"):
        check_run(config)


@pytest.mark.parametrize("name", [n for n in flower.__all__ if n.startswith("Differential")])
def test_flowers_privacy_wrappers_are_refused(name):
    inner = {"_target_": "flwr.serverapp.strategy.FedAvg"}
    wrapper = {"_target_": f"flwr.serverapp.strategy.{name}", "strategy": inner}
    deep = {"_target_": f"{__name__}.Wraps", "strategy": {**wrapper, "num_sampled_clients": 2}}
    deep["strategy"]["noise_multiplier"] = 0.0
    if "Fixed" in name:
        deep["strategy"]["clipping_norm"] = 1.0
    for config in (wrapper, deep):
        with pytest.raises(
            ConfigError, match=rf"{name}.*privacy=central_fixed or privacy=central_"
        ):
            make_strategy(config)


@pytest.mark.parametrize(
    ("sampler", "fraction_train", "asked"),
    [
        (Uniform(), 1.0, 10),
        (Uniform(0.5), 1.0, 5),
        (BySize(0.29), 1.0, 2),
        (Stratified(0.5), 0.5, 2),
        (PowerOfChoice(0.01), 1.0, 1),
        (object(), 1.0, 10),  # a rule that is none of ours: not more than all
    ],
)
def test_number_of_asked_sites(sampler, fraction_train, asked):
    strategy = FedAvg(fraction_train=fraction_train, min_train_nodes=1)
    assert num_asked(strategy, sampler, 10) == asked


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["strategy=krum", "strategy.num_malicious_nodes=1"], "at least 5 replies"),
        (["strategy=multikrum", "strategy.num_malicious_nodes=1"], "at least 5 replies"),
        (["strategy=bulyan", "strategy.num_malicious_nodes=1"], "at least 7 replies"),
        (["strategy=bulyan", "sites.expected=2"], "at least 3 replies"),
        (["strategy=krum", "sampling.fraction=0.7"], "asks 2 of 3 sites.*raise sampling.fraction"),
        (["strategy=trimmed_mean", "strategy.beta=0.4"], "leaves none of 3"),
        (["privacy=secagg", "sampling.fraction=0.7"], "asks 2 of 3; raise sampling.fraction"),
        (
            ["strategy=fednova", "train.optimizer=sgd", "strategy.momentum=0.5"],
            "must equal train.momentum=0;",
        ),
        (
            [
                "strategy=fednova",
                "train.optimizer=sgd",
                "strategy.momentum=0",
                "train.momentum=0.9",
            ],
            "must equal train.mom",
        ),
        (["strategy=cyclic", "sampling.fraction=0.5"], "every site in turn"),
        (["strategy=cyclic", "sampling=by_size"], "every site in turn"),
        (["privacy=local_dpsgd", "train.grad_clip=1"], "grad_clip=null.*privacy.max_grad_norm"),
    ],
)
def test_three_sites_that_a_rule_cannot_work_with(compose, options, says):
    with pytest.raises(ConfigError, match=says):
        check_run(compose(*options))


@pytest.mark.parametrize(
    "options",
    [
        ["strategy=krum"],
        ["strategy=krum", "strategy.num_malicious_nodes=1", "sites.expected=5"],
        ["strategy=bulyan"],
        ["strategy=trimmed_mean"],
        ["strategy=fedbuff", "strategy.buffer_size=20"],
        ["strategy=fednova", "train.optimizer=sgd", "train.momentum=0.9"],
        ["strategy=cyclic"],
        ["privacy=secagg"],
        ["train.grad_clip=1"],
    ],
)
def test_three_sites_that_a_rule_works_with(compose, options):
    check_run(compose(*options))


def test_trees_in_turn_need_every_site_too():
    for kind in (flower.FedXgbCyclic, "strategies.xgb_cyclic.XgbCyclic"):
        strategy = kind() if isinstance(kind, type) else make_strategy({"_target_": kind})
        check_sites(strategy, Uniform(), 4)
        with pytest.raises(ConfigError, match=r"sampling\.fraction=1"):
            check_sites(strategy, Uniform(0.5), None)


def test_number_of_sites_that_is_not_known_refuses_nothing():
    check_sites(Bulyan(num_malicious_nodes=5), Uniform(0.1), None)
