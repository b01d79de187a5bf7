"""Which strategies, tasks and options go with which kind of privacy; the rest stops at launch."""

from __future__ import annotations

from flwr.serverapp.strategy import Strategy

from fl_common.errors import ConfigError
from strategies.privacy.accounting import require_opacus
from strategies.privacy.central import CentralDp
from strategies.privacy.modes import (
    CentralAdaptive,
    CentralFixed,
    LocalDpSgd,
    NoPrivacy,
    Privacy,
    SecureAggregation,
)
from strategies.requirements import requirements_of
from strategies.sampling import Sampler
from tasks.contract import Task, TrainConfig


def check_combination(
    privacy: Privacy,
    strategy: Strategy,
    task: Task,
    train: TrainConfig,
    *,
    compresses: bool = False,
    max_update_norm: float | None = None,
    num_sites: int | None = None,
    num_asked: int | None = None,
) -> None:
    """Refuse what cannot work, or would only seem to protect.

    Parameters
    ----------
    compresses : bool
        Whether updates are encoded smaller than they are.
    max_update_norm : float or None
        The server's limit on a single update.
    num_sites, num_asked : int or None
        How many sites are expected, and how many of them a round asks, where that is known.

    Raises
    ------
    ConfigError
        Saying why, and what to change.
    """
    if isinstance(privacy, NoPrivacy):
        return
    if not isinstance(privacy, SecureAggregation):
        require_opacus()
    if isinstance(privacy, LocalDpSgd):
        _check_local(strategy, task, train)
        return
    name = type(strategy).__name__
    kind = "secagg" if isinstance(privacy, SecureAggregation) else "central_*"
    needs = requirements_of(strategy)
    if needs.single_updates or needs.own_weights:
        raise ConfigError(
            f"{name} must see each site's update, and privacy={kind} shows it only their mean; "
            "choose a strategy that averages (fedavg, fedavgm, fedadam, scaffold), or privacy=none"
        )
    if isinstance(privacy, CentralFixed | CentralAdaptive):
        if needs.expected_extra is not None:
            raise ConfigError(
                f"{name} sends more than an update; privacy={kind} would leave it without noise"
            )
        return
    if num_sites is not None and num_sites < privacy.min_sites:
        raise ConfigError(
            f"a masked sum needs {privacy.min_sites} sites (privacy.min_sites), there will be "
            f"{num_sites}"
        )
    if num_asked is not None and num_asked < privacy.min_sites:
        raise ConfigError(
            f"a masked sum needs {privacy.min_sites} sites (privacy.min_sites), and a round asks "
            f"{num_asked} of {num_sites}; raise sampling.fraction"
        )
    if max_update_norm is not None:
        raise ConfigError(
            "sites.max_update_norm looks at each site's update, which privacy=secagg hides; "
            "set it to null"
        )
    if compresses:
        raise ConfigError(
            "masked updates are whole numbers modulo 2^64 and cannot be compressed; "
            "privacy=secagg needs compression=fp32"
        )


def check_sampling(privacy: Privacy, sampler: Sampler) -> None:
    """Refuse a choice of sites by what privacy hides.

    Raises
    ------
    ConfigError
        Saying why, and what to change.
    """
    if not isinstance(privacy, NoPrivacy) and getattr(sampler, "needs_losses", False):
        raise ConfigError(
            f"{type(sampler).__name__} chooses sites by their exact training losses, which privacy "
            "keeps at the sites or must not let into the model; choose sampling=uniform, by_size "
            "or stratified, or privacy=none"
        )


def protected(strategy: Strategy, privacy: Privacy) -> Strategy:
    """Wrap a strategy in central differential privacy, if that is the mode."""
    if isinstance(privacy, CentralFixed | CentralAdaptive):
        return CentralDp(strategy, privacy)
    return strategy


def _check_local(strategy: Strategy, task: Task, train: TrainConfig) -> None:
    name = type(strategy).__name__
    if not getattr(task, "trains_privately", False):
        raise ConfigError("privacy=local_dpsgd is there for tables and image classification")
    if train.grad_clip is not None:
        raise ConfigError(
            "train.grad_clip clips a mini-batch's gradient, and privacy=local_dpsgd each row's, "
            "before the noise; set train.grad_clip=null and choose privacy.max_grad_norm"
        )
    needs = requirements_of(strategy)
    if needs.calibration:
        raise ConfigError(
            f"{name} puts the site's class counts into every row's loss, so that a row's gradient "
            "depends on other rows; privacy=local_dpsgd cannot bound that"
        )
    if needs.exact_losses:
        raise ConfigError(f"{name} needs each site's exact loss; privacy=local_dpsgd keeps it")
