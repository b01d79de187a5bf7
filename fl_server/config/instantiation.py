"""Objects from ``_target_`` and arguments: what a class accepts, a run's sampler and privacy."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from hydra.utils import instantiate

from fl_common.errors import ConfigError
from strategies.privacy.modes import LocalDpSgd, NoPrivacy, Privacy
from strategies.sampling import Sampler, Uniform
from strategies.wire.compression import Compression
from tasks.contract import DpSgd


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


def make_sampler(config: Mapping[str, Any] | None) -> Sampler:
    """Instantiate the rule that chooses a round's sites; all of them where none is configured.

    Raises
    ------
    ConfigError
        If the class does not exist, is no sampler, or refuses an argument.
    """
    if not config:
        return Uniform()
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


def make_compression(config: Mapping[str, Any] | None) -> Compression:
    """Return how updates travel; as they are where nothing is configured.

    Raises
    ------
    ConfigError
        If a key does not exist or a value does not fit.
    """
    given = dict(config or {})
    if unknown := sorted(given.keys() - {"dtype", "top_k"}):
        raise ConfigError(f"unknown key 'communication.{unknown[0]}'; known: dtype, top_k")
    return Compression(**given)
