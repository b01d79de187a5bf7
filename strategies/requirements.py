"""What a strategy needs of a run and offers to it, declared once and checked at launch.

A class says it in ``requirements = Requirements(...)``; Flower's own classes are in a table here.
The rest of the system asks ``requirements_of`` and looks at no attribute of a strategy itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from fl_common.errors import ConfigError, ReplyError
from strategies.personal import select_layers
from strategies.sampling import Sampler, fraction_of, num_chosen
from tasks.contract import Arrays, Model, Task, TrainConfig

_SHIPPED = ("flwr.", "strategies.")
_RENAMED = {
    "needs_sgd": "sgd=True",
    "needs_plain_sgd": "plain_sgd=True",
    "needs_calibration": "calibration=True",
    "needs_single_updates": "single_updates=...",
    "is_asynchronous": "asynchronous=True",
    "tied_to_clients": "tied_to_clients=(...,)",
    "not_saved": "not_saved=(...,)",
}


@dataclass(frozen=True)
class Requirements:
    """What one strategy needs and offers; what a class leaves at None its bases say.

    Parameters
    ----------
    sgd, plain_sgd : bool
        The equations hold for local SGD; for SGD without momentum.
    momentum : float
        The sites' momentum that the rule reckons with.
    calibration : bool
        The client update needs a task that calibrates class logits.
    single_updates : bool
        The rule must see each site's update: then the updates cannot be masked.
    own_weights : bool
        Replies are weighed by more than their number of examples, or asked one at a time.
    exact_losses : bool
        The rule needs each site's exact loss, without noise.
    asynchronous : bool
        Replies may come in a later round than they were asked in.
    in_turn : bool
        Each round visits one site, in the order of their names.
    trees : {"new", "whole"}
        The rule joins boosters, from replies that hold the new trees or the whole booster.
    weighting : {"examples", "uniform"}
        How much a site counts in the means.
    local_layers : str
        The layers that stay at a site (``strategies.personal.select_layers``).
    not_saved : tuple of str
        Attributes that mean something only within a round; bases' are added.
    tied_to_clients : tuple of str
        State that mirrors the sites' memories, dropped when these are lost; bases' are added.
    expected_extra : callable, () -> arrays
        The arrays that each reply must carry beside the model; from the method of this name.
    check_replies : callable, int -> object
        Raises ReplyError for a number of replies that the rule cannot use; from the method of
        this name.
    round_metrics : callable, () -> mapping of str to float
        Numbers of the strategy's own about the round that it just aggregated, for the round's
        record; from the method of this name.
    """

    sgd: bool | None = None
    plain_sgd: bool | None = None
    momentum: float | None = None
    calibration: bool | None = None
    single_updates: bool | None = None
    own_weights: bool | None = None
    exact_losses: bool | None = None
    asynchronous: bool | None = None
    in_turn: bool | None = None
    trees: str | None = None
    weighting: str | None = None
    local_layers: str | None = None
    not_saved: tuple[str, ...] = ()
    tied_to_clients: tuple[str, ...] = ()
    expected_extra: Callable[[], Arrays] | None = None
    check_replies: Callable[[int], object] | None = None
    round_metrics: Callable[[], Mapping[str, float]] | None = None

    def over(self, base: Requirements) -> Requirements:
        """Return what this says, and what ``base`` says where this says nothing."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said |= {
            name: tuple(dict.fromkeys((*getattr(base, name), *said[name])))
            for name in ("not_saved", "tied_to_clients")
        }
        return replace(base, **{name: value for name, value in said.items() if value is not None})

    def beside(self, other: Requirements) -> Requirements:
        """Return what two strategies of which one wraps the other need together."""
        needs = {
            field.name: True
            for field in fields(self)
            if True in (getattr(self, field.name), getattr(other, field.name))
        }
        return replace(self.over(other), **needs)  # type: ignore[arg-type]


_SINGLE = Requirements(single_updates=True)
STOCK: dict[type[Any], Requirements] = {
    flower.FedMedian: _SINGLE,
    flower.FedTrimmedAvg: _SINGLE,
    flower.MultiKrum: _SINGLE,
    flower.Bulyan: _SINGLE,
    flower.QFedAvg: Requirements(single_updates=True, own_weights=True),
    flower.FedXgbBagging: Requirements(single_updates=True, trees="new"),
    flower.FedXgbCyclic: Requirements(single_updates=True, trees="whole", in_turn=True),
}
"""Flower's own classes; what holds for a class holds for what is derived from it."""


def unwrapped(strategy: Strategy) -> list[Strategy]:
    """Return a strategy and every one that it wraps, outermost first."""
    inner = [part for part in vars(strategy).values() if isinstance(part, Strategy)]
    return [strategy, *(deeper for part in inner for deeper in unwrapped(part))]


def requirements_of(strategy: Strategy) -> Requirements:
    """Return what a strategy and every one that it wraps need and offer together."""
    outer, *inner = map(own_requirements, unwrapped(strategy))
    for part in inner:
        outer = outer.beside(part)
    return outer


def own_requirements(strategy: Strategy) -> Requirements:
    """Return what a strategy itself needs and offers, leaving out those that it wraps.

    What its methods show is added. A researcher's class with an ``aggregate_train`` of its own is
    handed single replies, and is taken to look at them, unless it or a base of theirs declares
    ``Requirements(single_updates=False)``.
    """
    found = Requirements(
        single_updates=True if _looks_at_replies(strategy) else None,
        own_weights=True if _overrides(strategy, "weight") else None,
        weighting=getattr(strategy, "weighting", None),
        expected_extra=getattr(strategy, "expected_extra", None)
        if _overrides(strategy, "expected_extra")
        else None,
        check_replies=getattr(strategy, "check_replies", None),
        round_metrics=getattr(strategy, "round_metrics", None),
    )
    for _, declared in _declarations(strategy):
        found = found.over(declared)
    return found


def _declarations(strategy: Strategy) -> Iterator[tuple[type[Any] | None, Requirements]]:
    """Yield what an instance says (with no class), then each of its classes, nearest first."""
    own = vars(strategy).get("requirements")
    if isinstance(own, Requirements):
        yield None, own
    for kind in type(strategy).__mro__:
        declared = vars(kind).get("requirements", STOCK.get(kind))
        if isinstance(declared, Requirements):
            yield kind, declared


def _looks_at_replies(strategy: Strategy) -> bool:
    said = [
        (kind, declared.single_updates)
        for kind, declared in _declarations(strategy)
        if declared.single_updates is not None
    ]
    if any(single and kind is not None and not _is_own(kind) for kind, single in said):
        return True  # no class derived from Krum can do without
    own = any(_is_own(k) and "aggregate_train" in vars(k) for k in type(strategy).__mro__)
    return said[0][1] is True if said else own


def _is_own(kind: type[Any]) -> bool:
    """Say whether a class is a researcher's: neither ours nor Flower's."""
    return not f"{kind.__module__}.".startswith((*_SHIPPED, "builtins.", "abc.", "typing."))


def _overrides(strategy: Strategy, method: str) -> bool:
    """Say whether a hook of ``strategies.fedavg.FedAvg`` is not the plain one."""
    definer = next((kind for kind in type(strategy).__mro__ if method in vars(kind)), None)
    return definer is not None and definer.__module__ != "strategies.fedavg"


def needs_single_updates(strategy: Strategy) -> bool:
    """Say whether the rule must see each site's update: then the updates cannot be masked."""
    return bool(requirements_of(strategy).single_updates)


def round_metrics(strategy: Strategy) -> dict[str, float]:
    """Return the numbers of its own that a strategy, or one that it wraps, has for its round.

    Raises
    ------
    ConfigError
        If they are not finite numbers by name.
    """
    found: dict[str, float] = {}
    for part in unwrapped(strategy):
        tell = own_requirements(part).round_metrics
        for name, value in (tell() if tell is not None else {}).items():
            if not isinstance(name, str) or not name.strip():
                raise ConfigError(f"round_metrics of {type(part).__name__}: {name!r} is no name")
            if isinstance(value, bool | str) or not _is_finite(value):
                raise ConfigError(
                    f"round_metrics of {type(part).__name__}: '{name}' is {value!r}; return "
                    "finite numbers"
                )
            found.setdefault(name, float(value))
    return found


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, ValueError):
        return False


def check_class(kind: type[Any]) -> None:
    """Refuse classes that here protect nothing or break, or that declare needs as they once did.

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
        for old in sorted(vars(base).keys() & _RENAMED):
            raise ConfigError(
                f"strategy {name}: '{old}' is now declared as requirements = "
                f"Requirements({_RENAMED[old]}), from strategies.requirements (docs/strategies.md)"
            )


def check_training(strategy: Strategy, task: Task, train: TrainConfig) -> None:
    """Refuse a local training that the strategy's equations do not hold for.

    Raises
    ------
    ConfigError
        Naming the key and the cure.
    """
    for part in unwrapped(strategy):
        name, needs = type(part).__name__, own_requirements(part)
        if (needs.plain_sgd or needs.sgd) and train.optimizer != "sgd":
            raise ConfigError(f"{name} holds for SGD at the sites; set train.optimizer=sgd")
        if needs.plain_sgd and train.momentum:
            raise ConfigError(f"{name} holds for SGD without momentum; set train.momentum=0")
        if needs.momentum is not None and needs.momentum != train.momentum:
            raise ConfigError(
                f"{name} normalises by the sites' momentum: strategy.momentum={needs.momentum:g} "
                f"must equal train.momentum={train.momentum:g}; leave out strategy.momentum"
            )
        if needs.calibration and not getattr(task, "calibrates_logits", False):
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
    fraction = fraction_of(sampler)
    for part in unwrapped(strategy):
        name, needs = type(part).__name__, own_requirements(part)
        if needs.in_turn and fraction < 1:
            raise ConfigError(
                f"{name} visits every site in turn, and sampling.fraction={fraction:g} shows it a "
                "part of them, drawn anew each round; set sampling=uniform sampling.fraction=1"
            )
        if needs.check_replies is None or not num_sites:
            continue
        asked = num_asked(strategy, sampler, num_sites)
        try:
            needs.check_replies(asked)
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
    if (selector := requirements_of(strategy).local_layers) is not None:
        select_layers(model, model.arrays(), selector)
