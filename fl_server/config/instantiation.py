"""Objects from ``_target_`` and arguments: what a class accepts, a run's sampler and privacy."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from flwr.serverapp.strategy import Strategy
from hydra.utils import get_class, instantiate

from fl_common.errors import ConfigError
from fl_common.plugins import plugin_modules
from fl_common.validation import Number, Portion, validated
from fl_common.words import nearest
from strategies.privacy.modes import LocalDpSgd, NoPrivacy, Privacy
from strategies.requirements import check_class, unwrapped
from strategies.sampling import Sampler, Uniform
from tasks.contract import DpSgd

NODE_MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
OUR_TARGETS = ("strategies", "flwr.serverapp.strategy")
OUR_HOMES = ("strategies", "flwr.serverapp", "flwr.server")


def parameters_of(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """Return what a class accepts by name; what it hands on as ``**kwargs`` its bases accept."""
    accepted: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        own = inspect.signature(base).parameters
        for name, parameter in own.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                accepted.setdefault(name, parameter)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return accepted


def make_strategy(config: Mapping[str, Any], allowed: Collection[str] = ()) -> Strategy:
    """Instantiate the strategy's server update.

    Waiting for sites is the round loop's job (``sites.quorum``), so Flower's own minima, which
    would wait for ever, are set to one site where the configuration does not name them.

    Parameters
    ----------
    allowed : collection of str
        Packages that the organiser names in ``allow_targets``.

    Raises
    ------
    ConfigError
        If the class does not exist, may not be named, is no Strategy, or refuses an argument.
    """
    target = config.get("_target_")
    if not target:
        raise ConfigError(
            "strategy._target_ must name a class, e.g. flwr.serverapp.strategy.FedAvg"
        )
    check_targets("strategy", config, allowed, "a flwr.serverapp.strategy.Strategy")
    try:
        kind = get_class(str(target))
        check_class(kind)
        accepted = parameters_of(kind)
        check_arguments(accepted, config)
        minima = {name: 1 for name in NODE_MINIMA if name in accepted and name not in config}
        strategy = instantiate(dict(config), **minima, _convert_="all")
    except ConfigError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        raise ConfigError(
            f"strategy {target} cannot be made: {' '.join(str(cause).split())}"
        ) from error
    if not isinstance(strategy, Strategy):
        raise ConfigError(f"strategy {target} is not a flwr.serverapp.strategy.Strategy")
    for part in unwrapped(strategy):
        check_class(type(part))
    return strategy


def check_targets(
    group: str, config: Any, allowed: Collection[str] = (), what: str = "a class"
) -> None:
    """Refuse a ``_target_``, however deep, that is no class of a place that may be named.

    Those are ``strategies``, Flower's own strategies, installed plugins, modules in the working
    folder (the organiser's own, as ``fedleague new strategy`` writes them) and the packages in
    ``allowed``. Nothing else is even imported, so that a configuration cannot call what it likes.

    Raises
    ------
    ConfigError
        Naming the key, the target and the cure.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "_target_":
                _check_target(group, value, allowed, what)
            else:
                check_targets(f"{group}.{key}", value, allowed)
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for position, value in enumerate(config):
            check_targets(f"{group}[{position}]", value, allowed)


def _check_target(group: str, target: Any, allowed: Collection[str], what: str) -> None:
    name = str(target)
    if not isinstance(target, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(
            f"{group}._target_ must name a class, as package.module.Class, got {target!r}"
        )
    place = _place(group, name, {*OUR_TARGETS, *plugin_modules("strategies"), *allowed}, what)
    try:
        kind = get_class(name)
    except Exception as error:
        cause = error.__cause__ or error
        raise ConfigError(
            f"{group} {name} cannot be made: {' '.join(str(cause).split())}"
        ) from error
    home = kind.__module__
    if place in OUR_TARGETS and not f"{home}.".startswith(tuple(f"{p}." for p in OUR_HOMES)):
        raise ConfigError(f"{group}._target_: {name} is {home}'s, which may not be named")


def check_network(reference: str, allowed: Collection[str] = ()) -> None:
    """Refuse a network of the organiser's own, ``module:function``, from a place not to be named.

    Raises
    ------
    ConfigError
        Naming the module and the cure.
    """
    module = reference.partition(":")[0]
    if _spec(module.partition(".")[0]) is None:
        return  # the task says that it is not installed
    _place("model", module, {*plugin_modules("models"), *allowed}, "a network")


def _place(group: str, name: str, places: Collection[str], what: str) -> str | None:
    """Return which of ``places`` a name is in; None: in the working folder."""
    top = name.partition(".")[0]
    place = next((p for p in places if f"{name}.".startswith(f"{p}.")), None)
    if place is None and not _is_here(top):
        if _spec(top) is None:
            raise ConfigError(f"{group} {name} cannot be made: there is no module '{top}'")
        raise ConfigError(
            f"{group}._target_: {name} is not {what} of fedleague, Flower, an installed plugin or "
            f"a module in this folder; if it is meant, allow its package: allow_targets=[{top}]"
        )
    return place


def _is_here(top: str) -> bool:
    """Say whether a module lies in the working folder itself."""
    spec = _spec(top)
    if spec is None or (spec.origin and not spec.has_location):  # built in or frozen: no file
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    here = Path.cwd().resolve()
    found = [Path(place).resolve() for place in places]
    if spec.submodule_search_locations and spec.origin:
        found = [path.parent for path in found]
    return any(path.parent == here for path in found)


def _spec(top: str) -> ModuleSpec | None:
    try:
        return find_spec(top)
    except (ImportError, ValueError):
        return None


def check_arguments(accepted: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> None:
    """Compare a strategy's arguments with the defaults of its signature.

    Flower's strategies take anything and fail in the first round.

    Raises
    ------
    ConfigError
        If an argument is misspelt, is no number where the default is one, or a ``fraction_`` is
        not within 0..1.
    """
    for key, value in given.items():
        if key.startswith("_"):
            continue
        if key not in accepted:
            if near := nearest(key, accepted):
                raise ConfigError(f"strategy has no argument '{key}'; did you mean '{near[0]}'?")
            continue  # the class itself says whether it takes it
        default = accepted[key].default
        if isinstance(default, int | float) and not isinstance(default, bool):
            validated(Number, value, prefix=f"strategy.{key}")
    for key in given:
        if key.startswith("fraction_"):
            validated(Portion, given[key], prefix=f"strategy.{key}")


def make_sampler(config: Mapping[str, Any] | None, allowed: Collection[str] = ()) -> Sampler:
    """Instantiate the rule that chooses a round's sites; all of them where none is configured.

    Raises
    ------
    ConfigError
        If the class does not exist, is no sampler, or refuses an argument.
    """
    if not config:
        return Uniform()
    check_targets("sampling", config, allowed)
    try:
        sampler = instantiate(dict(config), _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        raise ConfigError(f"sampling cannot be made: {' '.join(str(cause).split())}") from error
    if not hasattr(sampler, "choose"):
        raise ConfigError(f"sampling {config.get('_target_')} is not a strategies.sampling.Sampler")
    return cast(Sampler, sampler)


def make_privacy(config: Mapping[str, Any] | None) -> Privacy:
    """Instantiate the run's privacy mode; none where nothing is configured.

    Raises
    ------
    ConfigError
        If the class does not exist, is no mode, or refuses a value.
    """
    if not config:
        return NoPrivacy()
    check_targets("privacy", config)
    try:
        mode = instantiate(dict(config), _convert_="all")
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigError):
            raise cause from None
        raise ConfigError(f"privacy cannot be made: {' '.join(str(cause).split())}") from error
    if not isinstance(mode, Privacy):
        raise ConfigError(f"privacy {config.get('_target_')} is none of strategies.privacy.modes")
    return mode


def dp_sgd(privacy: Privacy) -> DpSgd | None:
    """Return what the sites need to know of the mode in which they train privately."""
    return DpSgd(**vars(privacy)) if isinstance(privacy, LocalDpSgd) else None
