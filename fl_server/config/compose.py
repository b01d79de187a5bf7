"""Compose a run's configuration without Hydra's command line, for Flower's own engines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fl_common.cli_errors import explained
from fl_common.errors import ConfigError, FedleagueError
from fl_server.config.run_config import RENAMED, RunConfig, freeze


def compose_run(run_config: Mapping[str, Any], num_nodes: int | None = None) -> RunConfig:
    """Compose from Flower's run config.

    Parameters
    ----------
    run_config : mapping
        ``usecase``; ``overrides``, as on the command line of ``fl-server``; ``folder`` for the
        results, empty for ``runs/USECASE/TIME``.
    num_nodes : int or None
        How many nodes Flower simulates. A shared table is cut into as many sites, unless the
        overrides say how many, or the sites have names or files of their own.

    Raises
    ------
    ConfigError
        If an override does not exist, or there are fewer nodes than sites.
    """
    overrides = shlex.split(str(run_config.get("overrides", "")))
    if not any(o.startswith("usecase=") for o in overrides):
        overrides.insert(0, f"usecase={run_config.get('usecase', 'breast_cancer')}")
    folder = Path(str(run_config["folder"])) if run_config.get("folder") else None
    choice = next(o for o in reversed(overrides) if o.startswith("usecase="))
    config = with_shipped(compose_overrides(overrides, folder), choice.removeprefix("usecase="))
    if num_nodes is None or num_nodes == (num_sites := len(config.sources)):
        return config
    counted = "data.num_sites" in keys_given(overrides)
    if not (counted or config.data.names or config.data.sites):
        counted_config = compose_overrides([*overrides, f"data.num_sites={num_nodes}"], folder)
        return replace(counted_config, shipped=config.shipped)
    if num_nodes < num_sites:
        raise ConfigError(
            f"{num_sites} sites need as many simulated nodes, there are {num_nodes}; "
            f"add --federation-config 'num-supernodes={num_sites}'"
        )
    return config


def compose_overrides(overrides: list[str], folder: Path | None = None) -> RunConfig:
    """Compose ``conf/server.yaml`` with overrides and freeze it.

    Raises
    ------
    ConfigError
        If an override does not exist.
    """
    try:
        with _composer():
            full = compose("server", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise explained(error, known_options(overrides), RENAMED) from None
    choices = full.hydra.runtime.choices
    config = full.copy()
    OmegaConf.set_struct(config, False)
    with open_dict(config):
        del config["hydra"]
    if folder is None:
        folder = Path("runs") / str(config.usecase.slug) / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    name = strategy_name(choices["strategy"], overrides)
    return freeze(config, folder, name, keys_given(overrides))


def keys_given(overrides: list[str]) -> set[str]:
    """Return the keys and groups that overrides name."""
    return {o.lstrip("+~").partition("=")[0].partition("@")[0] for o in overrides}


def with_shipped(config: RunConfig, usecase: str | None) -> RunConfig:
    """Add the use case ``usecase`` as it is without overrides, by which runs are ranked.

    There is none for a use case that needs overrides, and for one that the overrides make another.
    """
    overrides = [f"usecase={usecase}", f"runtime={config.runtime.name}"]
    try:
        shipped = compose_overrides(overrides, config.folder)
    except FedleagueError:
        return config
    return (
        config if shipped.usecase.slug != config.usecase.slug else replace(config, shipped=shipped)
    )


def _composer() -> AbstractContextManager[Any]:
    """Return what ``compose`` needs; on the command line Hydra has it, with ``--config-dir``."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_module("conf", version_base="1.3")


def strategy_name(choice: str | None, overrides: list[str]) -> str:
    """Name the strategy: its YAML file, or the class given by ``strategy._target_``."""
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == "strategy._target_":
            return value.rpartition(".")[2]
    if choice is None:
        raise ConfigError("strategy must be given, for example strategy=fedavg")
    return choice


def known_options(overrides: list[str]) -> list[str]:
    """Return every key that may be overridden, with the groups that the overrides choose."""
    groups = [o for o in overrides if "." not in o.partition("=")[0] and "=" in o]
    for chosen in (groups, []):  # without them where one of them is what does not exist
        try:
            with initialize_config_module("conf", version_base="1.3"):
                config = compose("server", overrides=[o for o in chosen if "hydra" not in o])
        except (HydraException, OmegaConfBaseException, YAMLError):
            continue
        plain = OmegaConf.to_container(config, resolve=False)
        return list(_paths(plain, ""))
    return []


def _paths(node: Any, prefix: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}"
            yield from _paths(value, f"{prefix}{key}.")
