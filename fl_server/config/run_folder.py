"""A run's folder holds its configuration from the start: all that is needed to continue it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_common.cli_errors import explained
from fl_common.errors import ConfigError
from fl_common.files import write_atomically
from fl_common.words import suggest
from fl_server.config.compose import with_shipped
from fl_server.config.run_config import RENAMED, RunConfig, freeze

CONFIG = "config.yaml"
STRATEGY = "strategy_name"
"""Under which key the file keeps what the leaderboard calls the strategy."""
ADJUSTABLE = ("rounds", "board", "runtime", "sites", "early_stopping")
"""What may be given anew when a run continues: nothing that its scores so far depend on."""


def write_config(config: RunConfig) -> None:
    """Write the whole configuration into the run's folder.

    Raises
    ------
    FileWriteError
        If the folder cannot be written.
    """
    content = {STRATEGY: config.strategy_name, **config.resolved, "resume": False}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically(config.folder / CONFIG, text.encode())


def resumed_run(folder: Path, overrides: list[str]) -> RunConfig:
    """Return the run of a folder, to be continued.

    Parameters
    ----------
    overrides : list of str
        ``KEY=VALUE``; what the run depends on may only be repeated.

    Raises
    ------
    ConfigError
        If there is no such run, or an override contradicts it.
    """
    raw, name = _read(folder)
    config = OmegaConf.create({**raw, "resume": True})
    OmegaConf.set_struct(config, True)
    try:
        for override in OverridesParser.create().parse_overrides(overrides):
            _apply(override, config, name, folder)
    except (HydraException, OmegaConfBaseException) as error:
        raise explained(error, list(raw), RENAMED) from None
    run = freeze(config, folder, name)
    return with_shipped(run, run.usecase.slug)


def _read(folder: Path) -> tuple[dict[str, Any], str]:
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(
            f"resume={folder}: there is no {path}; give the folder of a run, as runs/USECASE/TIME"
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        name = raw.pop(STRATEGY, "") or raw["strategy"]["_target_"].rpartition(".")[2]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"{path}: not the configuration of a run ({type(error).__name__}: {why}); give "
            "resume=true hydra.run.dir=FOLDER and the overrides that the run was started with"
        ) from None
    return dict(raw), str(name)


def _apply(override: Override, config: DictConfig, strategy: str, folder: Path) -> None:
    key, text = override.key_or_group, override.input_line or override.key_or_group
    if override.is_sweep_override() or override.is_delete() or key.startswith("hydra."):
        raise ConfigError(f"resume={folder} continues one run as it is; leave out {text}")
    value = override.value()
    stored = OmegaConf.select(config, key, throw_on_missing=False)
    root = key.partition(".")[0]
    if root not in config:
        raise ConfigError(f"unknown option '{key}'{suggest(root, list(config))}")
    if isinstance(stored, DictConfig) and isinstance(value, str):
        named = {"strategy": strategy, "usecase": stored.get("slug")}
        stored = named.get(key, stored.get("name", stored.get("kind")))
        if value != stored:
            raise _contradiction(folder, text, key, stored)
        return
    plain = OmegaConf.to_container(stored) if OmegaConf.is_config(stored) else stored
    if plain == value:
        return
    if root not in ADJUSTABLE or isinstance(value, Mapping):
        raise _contradiction(folder, text, key, plain)
    OmegaConf.update(config, key, value)


def _contradiction(folder: Path, text: str, key: str, stored: object) -> ConfigError:
    has = "" if stored is None else f", which has {key}={stored}"
    return ConfigError(
        f"{text} contradicts the run in {folder}{has}; leave it out, or start a new run"
    )
