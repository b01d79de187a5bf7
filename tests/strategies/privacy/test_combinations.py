"""Each refused combination with privacy says why and names its cure; the others pass."""

import pytest
from flwr.serverapp import strategy as flower

from fl_common.errors import ConfigError
from strategies.cyclic import CyclicWeightTransfer
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedlc import FedLC
from strategies.privacy import accounting
from strategies.privacy.central import CentralDp
from strategies.privacy.combinations import check_combination, check_sampling, protected
from strategies.privacy.modes import (
    CentralAdaptive,
    CentralFixed,
    LocalDpSgd,
    NoPrivacy,
    SecureAggregation,
)
from strategies.qfedavg import QFedAvg
from strategies.sampling import PowerOfChoice, Uniform
from strategies.scaffold import Scaffold
from tasks.contract import TrainConfig

SECAGG, FIXED, ADAPTIVE, LOCAL = (
    SecureAggregation(min_sites=4),
    CentralFixed(),
    CentralAdaptive(),
    LocalDpSgd(),
)
PRIVATE = [SECAGG, FIXED, ADAPTIVE, LOCAL]


class PrivateTask:
    trains_privately = True


class OtherTask:
    pass


def check(privacy, strategy=None, task=PrivateTask, train=None, **options):
    check_combination(privacy, strategy or FedAvg(), task(), train or TrainConfig(), **options)


def median():
    return flower.FedMedian()


def qfedavg():
    return QFedAvg(0.1)


@pytest.mark.parametrize(
    ("privacy", "strategy", "options", "why", "cure"),
    [
        (SECAGG, median, {}, "privacy=secagg shows it only their mean", "privacy=none"),
        (FIXED, median, {}, "privacy=central_* shows it only their mean", "fedavg, fedavgm"),
        (
            ADAPTIVE,
            CyclicWeightTransfer,
            {},
            "CyclicWeightTransfer must see each site's update",
            "fedavg, fedavgm",
        ),
        (
            SECAGG,
            CyclicWeightTransfer,
            {},
            "CyclicWeightTransfer must see each site's update",
            "privacy=none",
        ),
        (SECAGG, qfedavg, {}, "QFedAvg must see each site's update", "privacy=none"),
        (FIXED, Scaffold, {}, "Scaffold sends more than an update", "without noise"),
        (ADAPTIVE, Scaffold, {}, "Scaffold sends more than an update", "without noise"),
        (SECAGG, FedAvg, {"num_sites": 3}, "there will be 3", "needs 4 sites (privacy.min_sites)"),
        (
            SECAGG,
            FedAvg,
            {"num_sites": 8, "num_asked": 3},
            "a round asks 3 of 8",
            "raise sampling.fraction",
        ),
        (SECAGG, FedAvg, {"max_update_norm": 1.0}, "sites.max_update_norm", "set it to null"),
        (SECAGG, FedAvg, {"compresses": True}, "cannot be compressed", "compression=fp32"),
        (LOCAL, FedAvg, {"task": OtherTask}, "is there for", "tables and image classification"),
        (
            LOCAL,
            FedAvg,
            {"train": TrainConfig(grad_clip=1.0)},
            "train.grad_clip clips a mini-batch",
            "set train.grad_clip=null and choose privacy.max_grad_norm",
        ),
        (LOCAL, FedLC, {}, "FedLC puts the site's class counts", "cannot bound that"),
        (LOCAL, qfedavg, {}, "QFedAvg needs each site's exact loss", "keeps it"),
    ],
)
def test_refused_combination_says_why_and_names_its_cure(privacy, strategy, options, why, cure):
    with pytest.raises(ConfigError) as caught:
        check(privacy, strategy(), **options)
    assert why in str(caught.value)
    assert cure in str(caught.value)


@pytest.mark.parametrize(
    ("privacy", "strategy", "options"),
    [
        *((privacy, kind, {}) for privacy in PRIVATE for kind in (FedAvg, FedAvgM)),
        (SECAGG, Scaffold, {}),
        (SECAGG, FedLC, {}),
        (SECAGG, FedAvg, {"num_sites": 4, "num_asked": 4}),
        (SECAGG, FedAvg, {"task": OtherTask, "train": TrainConfig(grad_clip=1.0)}),
        (FIXED, FedAvg, {"compresses": True, "max_update_norm": 1.0, "num_sites": 1}),
        (LOCAL, median, {"compresses": True, "max_update_norm": 1.0, "num_sites": 1}),
        (LOCAL, Scaffold, {}),
    ],
)
def test_combination_that_works_passes(privacy, strategy, options):
    assert check(privacy, strategy(), **options) is None


def test_without_privacy_everything_passes():
    options = {"compresses": True, "max_update_norm": 1.0, "num_sites": 1, "num_asked": 1}
    for strategy in (median(), qfedavg(), Scaffold(), FedLC(), CyclicWeightTransfer()):
        assert check(NoPrivacy(), strategy, OtherTask, **options) is None


def test_noise_names_the_missing_extra_and_masks_need_none(monkeypatch):
    monkeypatch.setattr(accounting, "find_spec", lambda name: None)
    for privacy in (FIXED, ADAPTIVE, LOCAL):
        with pytest.raises(ConfigError, match=r"pip install 'fedleague\[privacy\]'"):
            check(privacy)
    assert check(SECAGG) is None
    assert check(NoPrivacy()) is None


@pytest.mark.parametrize("privacy", PRIVATE)
def test_choice_of_sites_by_their_losses_is_refused_under_privacy(privacy):
    with pytest.raises(ConfigError, match=r"^PowerOfChoice .* choose sampling=uniform, by_size"):
        check_sampling(privacy, PowerOfChoice())
    assert check_sampling(privacy, Uniform(0.5)) is None


def test_choice_of_sites_by_their_losses_passes_without_privacy():
    assert check_sampling(NoPrivacy(), PowerOfChoice()) is None


def test_central_privacy_wraps_the_strategy_and_no_other_does():
    strategy = FedAvg()
    for privacy in (FIXED, ADAPTIVE):
        wrapped = protected(strategy, privacy)
        assert isinstance(wrapped, CentralDp)
        assert strategy in vars(wrapped).values()
    for privacy in (NoPrivacy(), LOCAL, SECAGG):
        assert protected(strategy, privacy) is strategy
