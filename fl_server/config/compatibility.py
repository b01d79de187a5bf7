"""Check plain values of a configuration, and a run as a whole, before anything is started."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from fl_common.errors import ConfigError
from fl_common.values import (
    Check,
    flag,
    number,
    optional,
    text,
    texts,
    whole,
)
from fl_server.config.usecase import check_metric
from strategies.privacy.combinations import check_combination, check_sampling
from strategies.privacy.modes import NoPrivacy
from strategies.requirements import check_sites, check_training, num_asked
from strategies.sampling import Stratified
from strategies.tree_replies import check_variable_size
from tasks.contract import AddsTrees, ChecksChoices, Task
from tasks.registry import load_task

if TYPE_CHECKING:
    from fl_server.config.run_config import RunConfig

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


def check_run(config: RunConfig) -> None:
    """Check what only shows once task and strategy are loaded; no site is asked for anything.

    Raises
    ------
    ConfigError
        On a task, model, loss, optimiser, strategy or metric that does not exist or fit.
    """
    from fl_server.config.run_config import make_strategy

    task = load_task(config.usecase.task, config.schema)
    for key in (config.usecase.score.name, *config.usecase.extra_columns):
        check_metric(key, config.metrics, config.schema)
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
    from fl_server.config.instantiation import make_sampler

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
    check_variable_size(
        strategy,
        num_trees=task.new_trees(config.model) if isinstance(task, AddsTrees) else 0,
        model=config.model.name,
        hidden=not isinstance(config.privacy, NoPrivacy),
        compresses=config.communication.is_active,
        max_update_norm=config.sites.max_update_norm,
    )


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
