"""Check plain values of a configuration, and a run as a whole, before anything is started."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from strategies.growth import check_growing
from strategies.privacy.combinations import check_combination, check_sampling
from strategies.privacy.modes import NoPrivacy
from strategies.requirements import check_sites, check_training, num_asked
from strategies.sampling import Stratified
from tasks.contract import Task
from tasks.errors import ConfigError
from tasks.hooks import AddsTrees, ChecksChoices
from tasks.metrics.catalog import metric_info
from tasks.registry import load_task

if TYPE_CHECKING:
    from fl_server.config import RunConfig

Check = Callable[[str, Any], Any]
"""(key, value) -> value; raises ConfigError naming the key."""
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KINDS = ("classification", "regression", "detection", "segmentation")


def whole(least: int = 0, most: int | None = None) -> Check:
    """Accept whole numbers from ``least`` to ``most``."""

    def check(key: str, value: Any) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            upto = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(f"{key} must be a whole number, {upto}, got {value!r}")
        return value

    return check


def number(least: float = -math.inf, *, above: bool = False) -> Check:
    """Accept finite numbers from ``least`` on, or only ``above`` it."""

    def check(key: str, value: Any) -> Any:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or value < least or (above and value == least):
            if least == 0:
                kind = "a positive number" if above else "a number, at least 0"
            else:
                kind = "a number" if least == -math.inf else f"a number, at least {least:g}"
            raise ConfigError(f"{key} must be {kind}, got {value!r}")
        return value

    return check


def flag(key: str, value: Any) -> bool:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, got {value!r}")
    return value


def text(key: str, value: Any) -> str:
    """Accept a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} must be a text, got {value!r}")
    return value


def texts(key: str, value: Any) -> list[str]:
    """Accept a list of texts."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{key} must be a list, as [a,b], got {value!r}")
    return value


def either(*options: str) -> Check:
    """Accept one of a few words."""

    def check(key: str, value: Any) -> Any:
        if value not in options:
            raise ConfigError(f"{key} is {value!r}; expected {' or '.join(options)}")
        return value

    return check


def slug(key: str, value: Any) -> str:
    """Accept what can name a folder and a page."""
    name = str(value)
    if not _SLUG.fullmatch(name):
        raise ConfigError(f"{key} must be letters, digits, '.', '_' and '-', got {name!r}")
    return name


def optional(check: Check) -> Check:
    """Accept null too."""
    return lambda key, value: None if value is None else check(key, value)


def section(key: str, value: Any) -> Mapping[str, Any]:
    """Accept keys below a key."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must have keys below it, got {value!r}")
    return value


TRAIN_CHECKS: dict[str, Check] = {
    "optimizer": text,
    "lr": number(0, above=True),
    "momentum": number(0),
    "weight_decay": number(0),
    "batch_size": whole(1),
    "local_epochs": whole(1),
    "local_steps": optional(whole(1)),
    "loss": text,
    "class_weight": text,
    "grad_clip": optional(number(0, above=True)),
}
SITES_CHECKS: dict[str, Check] = {
    "expected": optional(whole(1)),
    "quorum": optional(whole(1)),
    "wait_seconds": number(0),
    "reply_seconds": number(0, above=True),
    "rejoin_seconds": number(0),
    "max_update_norm": optional(number(0, above=True)),
}
STOPPING_CHECKS: dict[str, Check] = {"patience": optional(whole(1)), "min_delta": number(0)}
BOARD_CHECKS: dict[str, Check] = {
    "url": optional(text),
    "serve": flag,
    "host": text,
    "port": whole(0, 65535),
}
RUNTIME_CHECKS: dict[str, Check] = {
    "name": text,
    "serve": flag,
    "threads": optional(whole(1)),
    "cpus_per_client": number(0, above=True),
    "gpus_per_client": number(0),
    "host": text,
    "port": whole(0, 65535),
    "certificate": optional(text),
    "private_key": optional(text),
    "ca": optional(text),
    "node_keys": texts,
    "open_enrolment": flag,
    "insecure": flag,
}
PARTITION_CHECKS: dict[str, Check] = {
    "kind": text,
    "seed": whole(),
    "alpha": number(0, above=True),
    "column": optional(text),
}


def each(group: str, raw: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Check every value of a group.

    Raises
    ------
    ConfigError
        Naming the key and what it may be; an unknown key with its near match.
    """
    for key, value in section(group, raw).items():
        if key not in checks:
            near = get_close_matches(str(key), checks, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(checks)}"
            raise ConfigError(f"unknown key '{group}.{key}'; {hint}")
        checks[key](f"{group}.{key}", value)


def check_run(config: RunConfig) -> None:
    """Check what only shows once task and strategy are loaded; no site is asked for anything.

    Raises
    ------
    ConfigError
        On a task, model, loss, optimiser, strategy or metric that does not exist or fit.
    """
    from fl_server.config import make_strategy

    task = load_task(config.usecase.task, config.schema)
    for key in (config.usecase.score.name, *config.usecase.subgroup_columns):
        check_metric(key, config.usecase.task, config.schema)
    if isinstance(task, ChecksChoices):
        task.check(config.model, config.train)
    check_strategy(config, make_strategy(config.strategy), task)


def check_strategy(config: RunConfig, strategy: Strategy, task: Task) -> None:
    """Refuse a strategy that does not go with the run's task, training, sites or privacy.

    Raises
    ------
    ConfigError
        Saying why, and what to change.
    """
    from fl_server.instantiation import make_sampler

    sampler = make_sampler(config.resolved.get("sampling"))
    names = [str(site["name"]) for site in config.site_data]
    if names and isinstance(sampler, Stratified):
        sampler.check_names(names)
    num_sites = config.sites.expected or len(names) or None
    check_trees(config, strategy, task)
    check_training(strategy, task, config.train)
    check_sampling(config.privacy, sampler)
    check_combination(
        config.privacy,
        strategy,
        task,
        config.train,
        compresses=config.communication.is_active,
        max_update_norm=config.sites.max_update_norm,
        num_sites=num_sites,
        num_asked=num_asked(strategy, sampler, num_sites) if num_sites else None,
    )
    check_sites(strategy, sampler, num_sites)


def check_trees(config: RunConfig, strategy: Strategy, task: Task) -> None:
    """Refuse trees and strategies that do not go together."""
    check_growing(
        strategy,
        num_trees=task.new_trees(config.model) if isinstance(task, AddsTrees) else 0,
        model=config.model.name,
        hidden=not isinstance(config.privacy, NoPrivacy),
        compresses=config.communication.is_active,
        max_update_norm=config.sites.max_update_norm,
    )


def check_metric(path: str, task: str, schema: Mapping[str, Any]) -> None:
    """Require that a metric, in a scope such as ``subgroups/women``, will be computed.

    Raises
    ------
    ConfigError
        Naming the metric or the scope, with the near match.
    """
    scope, _, name = path.rpartition("/")
    known = {"", "overall"}
    for group, key in (("subgroups", "subgroups"), ("blocks", "feature_blocks")):
        known |= {f"{group}/{scoped}" for scoped in schema.get(key) or {}}
    if scope not in known:
        near = get_close_matches(scope, known, n=1)
        hint = f"did you mean '{near[0]}/{name}'?" if near else f"known: {sorted(known - {''})}"
        raise ConfigError(f"usecase.score: '{path}': scope '{scope}' does not exist; {hint}")
    kind = next((kind for kind in _KINDS if kind in task), None)
    classes = [str(label) for label in schema.get("classes") or ()]
    try:
        metric_info(name, classes, kind)
    except ConfigError as error:
        raise ConfigError(f"usecase.score or columns_shown: {error}") from None


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
            if near := get_close_matches(key, accepted, n=1):
                raise ConfigError(f"strategy has no argument '{key}'; did you mean '{near[0]}'?")
            continue  # the class itself says whether it takes it
        default = accepted[key].default
        if isinstance(default, int | float) and not isinstance(default, bool):
            number()(f"strategy.{key}", value)
    for key in given:
        if key.startswith("fraction_") and not 0 <= number()(f"strategy.{key}", given[key]) <= 1:
            raise ConfigError(f"strategy.{key} must be from 0 to 1, got {given[key]!r}")
