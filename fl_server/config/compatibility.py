"""Make what a configuration names, once, and check that it goes together."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.serverapp.strategy import Strategy

from fl_server.config.instantiation import check_network, make_sampler, make_strategy
from fl_server.config.run_config import RunConfig
from fl_server.config.usecase import check_metric
from strategies.privacy.combinations import check_combination, check_sampling
from strategies.privacy.modes import NoPrivacy
from strategies.requirements import check_sites, check_training, num_asked
from strategies.sampling import Sampler, Stratified
from strategies.tree_replies import check_variable_size
from tasks.contract import AddsTrees, ChecksChoices, Task
from tasks.registry import load_task


@dataclass(frozen=True)
class RunParts:
    """What a configuration names, made and checked once."""

    task: Task
    strategy: Strategy
    sampler: Sampler


def check_run(config: RunConfig) -> RunParts:
    """Make task, strategy and choice of sites, and check them; no site is asked for anything.

    Raises
    ------
    ConfigError
        On a task, model, loss, optimiser, strategy or metric that does not exist or fit.
    """
    task = load_task(config.usecase.task, config.schema)
    if ":" in config.model.name:
        check_network(config.model.name, config.allow_targets)
    for key in (config.usecase.score.name, *config.usecase.extra_columns):
        check_metric(key, config.metrics, config.schema)
    if isinstance(task, ChecksChoices):
        task.check(config.model, config.train)
    allowed = config.allow_targets
    parts = RunParts(
        task, make_strategy(config.strategy, allowed), make_sampler(config.sampling, allowed)
    )
    check_strategy(config, parts)
    return parts


def check_strategy(config: RunConfig, parts: RunParts) -> None:
    """Refuse a strategy that does not go with the run's task, training, sites or privacy.

    Raises
    ------
    ConfigError
        Saying why, and what to change.
    """
    task, strategy, sampler = parts.task, parts.strategy, parts.sampler
    names = [source.name for source in config.sources]
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
        compresses=config.compression.is_active,
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
        compresses=config.compression.is_active,
        max_update_norm=config.sites.max_update_norm,
    )
