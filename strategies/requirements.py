"""What a strategy asks of a run, checked at launch instead of failing round by round."""

from __future__ import annotations

from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fl_common.errors import ConfigError, ReplyError
from strategies.cyclic import CyclicWeightTransfer
from strategies.fednova import FedNova
from strategies.personal import select_layers
from strategies.sampling import Sampler, fraction_of, num_chosen
from tasks.contract import Model, Task, TrainConfig

SINGLE = (
    *(flower.FedMedian, flower.FedTrimmedAvg, flower.MultiKrum, flower.Bulyan, flower.QFedAvg),
    *(flower.FedXgbBagging, flower.FedXgbCyclic),
)
_SHIPPED = ("flwr.", "strategies.")


def unwrapped(strategy: Strategy) -> list[Strategy]:
    """Return a strategy and every one that it wraps, outermost first."""
    inner = [part for part in vars(strategy).values() if isinstance(part, Strategy)]
    return [strategy, *(deeper for part in inner for deeper in unwrapped(part))]


def needs_single_updates(strategy: Strategy) -> bool:
    """Say whether the rule must see each site's update: then the updates cannot be masked.

    A researcher's class with an ``aggregate_train`` of its own is handed single replies, and is
    taken to look at them, unless it or a base of theirs sets ``needs_single_updates = False``.
    """
    return any(_looks_at_replies(part) for part in unwrapped(strategy))


def _looks_at_replies(strategy: Strategy) -> bool:
    if isinstance(strategy, SINGLE) or getattr(strategy, "needs_single_updates", False):
        return True
    own = [k for k in type(strategy).__mro__ if not f"{k.__module__}.".startswith(_SHIPPED)]
    says_no = any("needs_single_updates" in vars(kind) for kind in own)
    return not says_no and any("aggregate_train" in vars(kind) for kind in own)


def check_class(kind: type[Any]) -> None:
    """Refuse Flower's differential privacy wrappers, which here protect nothing or break.

    Raises
    ------
    ConfigError
        Naming what to use in their place.
    """
    for base in kind.__mro__:
        name = base.__name__
        if f"{base.__module__}.".startswith("flwr.") and name.startswith("DifferentialPrivacy"):
            raise ConfigError(
                f"strategy._target_: Flower's {name} clips by code that no site here runs, or "
                "counts and averages wrongly (docs/privacy.md); name the strategy inside it, and "
                "set privacy=central_fixed or privacy=central_adaptive"
            )


def check_training(strategy: Strategy, task: Task, train: TrainConfig) -> None:
    """Refuse a local training that the strategy's equations do not hold for.

    Raises
    ------
    ConfigError
        Naming the key and the cure.
    """
    name = type(strategy).__name__
    plain = getattr(strategy, "needs_plain_sgd", False)
    if (plain or getattr(strategy, "needs_sgd", False)) and train.optimizer != "sgd":
        raise ConfigError(f"{name} holds for SGD at the sites; set train.optimizer=sgd")
    if plain and train.momentum:
        raise ConfigError(f"{name} holds for SGD without momentum; set train.momentum=0")
    if isinstance(strategy, FedNova) and strategy.momentum != train.momentum:
        raise ConfigError(
            f"{name} normalises by the sites' momentum: strategy.momentum={strategy.momentum:g} "
            f"must equal train.momentum={train.momentum:g}; leave out strategy.momentum"
        )
    if getattr(strategy, "needs_calibration", False) and not getattr(
        task, "calibrates_logits", False
    ):
        raise ConfigError(f"{name} calibrates class logits, which this task does not have")


def check_sites(strategy: Strategy, sampler: Sampler, num_sites: int | None) -> None:
    """Refuse a choice of sites that the rule does not work with.

    Parameters
    ----------
    num_sites : int or None
        How many sites are expected, where that is known.

    Raises
    ------
    ConfigError
        Naming the key and the cure.
    """
    in_turn = CyclicWeightTransfer | flower.FedXgbCyclic
    fraction = fraction_of(sampler)
    for part in unwrapped(strategy):
        name = type(part).__name__
        if isinstance(part, in_turn) and fraction < 1:
            raise ConfigError(
                f"{name} visits every site in turn, and sampling.fraction={fraction:g} shows it a "
                "part of them, drawn anew each round; set sampling=uniform sampling.fraction=1"
            )
        check = getattr(part, "check_replies", None)
        if check is None or not num_sites:
            continue
        asked = num_asked(strategy, sampler, num_sites)
        try:
            check(asked)
        except ReplyError as error:
            cure = "" if asked == num_sites else ", or raise sampling.fraction"
            raise ConfigError(f"a round asks {asked} of {num_sites} sites: {error}{cure}") from None


def num_asked(strategy: Strategy, sampler: Sampler, num_sites: int) -> int:
    """Return how many sites a training round asks, if all are connected."""
    shown = num_chosen(fraction_of(sampler), num_sites)
    parts = unwrapped(strategy)
    fraction = min(float(getattr(part, "fraction_train", 1.0)) for part in parts)
    least = max(int(getattr(part, "min_train_nodes", 1)) for part in parts)
    return min(max(int(shown * fraction), least), shown)


def check_layers(strategy: Strategy, model: Model) -> None:
    """Refuse a selection of local layers that this model does not have.

    Raises
    ------
    ConfigError
        Listing the model's weights.
    """
    selector = getattr(strategy, "layers", None)
    if isinstance(selector, str):
        select_layers(model, model.arrays(), selector)
