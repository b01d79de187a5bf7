"""Hydra's composed configuration, checked and frozen.

With ``cli.py`` the only importer of Hydra. No ``DictConfig`` leaves this module: the rest of the
server works with the dataclasses below.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flwr.serverapp.strategy import Strategy
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_common.errors import ConfigError
from fl_common.values import (
    Check,
    each,
    either,
    flag,
    number,
    optional,
    section,
    slug,
    text,
    texts,
    whole,
)
from fl_server.config.compatibility import (
    BOARD_CHECKS,
    PARTITION_CHECKS,
    RUNTIME_CHECKS,
    SITES_CHECKS,
    STOPPING_CHECKS,
    TRAIN_CHECKS,
    check_arguments,
)
from fl_server.config.instantiation import dp_sgd, make_compression, make_privacy, parameters_of
from fl_server.config.usecase import UseCaseInfo, score_rule
from strategies.privacy.modes import NoPrivacy, Privacy
from strategies.requirements import check_class, unwrapped
from strategies.wire.compression import Compression
from tasks.contract import DataSource, ModelSpec, TaskMetrics, TrainConfig, metrics_of
from tasks.registry import load_task

USECASE_KEYS = {"slug", "title", "description", "task", "score", "extra_columns"}
NODE_MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


@dataclass(frozen=True)
class SitesConfig:
    """When a round may start, and how long it waits."""

    expected: int | None = None
    quorum: int | None = None
    wait_seconds: float = 600.0
    reply_seconds: float = 3600.0
    rejoin_seconds: float = 60.0
    max_update_norm: float | None = None


@dataclass(frozen=True)
class EarlyStopping:
    """Stop after ``patience`` rounds without a validation score better by ``min_delta``."""

    patience: int | None = None
    min_delta: float = 0.0


@dataclass(frozen=True)
class BoardConfig:
    """Where the leaderboard is kept and served."""

    url: str | None = None
    serve: bool = False
    host: str = "127.0.0.1"
    port: int = 8080


@dataclass(frozen=True)
class RunConfig:
    """One run, fully resolved."""

    usecase: UseCaseInfo
    schema: Mapping[str, Any]
    model: ModelSpec
    train: TrainConfig
    strategy: Mapping[str, Any]
    strategy_name: str
    runtime: Mapping[str, Any]
    sites: SitesConfig
    early_stopping: EarlyStopping
    board: BoardConfig
    site_data: tuple[Mapping[str, Any], ...]
    rounds: int
    seed: int
    split_seed: int
    folder: Path
    team: str = "me"
    claimed: float | None = None
    weights: Path | None = None
    resume: bool = False
    privacy: Privacy = field(default_factory=NoPrivacy)
    communication: Compression = field(default_factory=Compression)
    metrics: TaskMetrics = field(default_factory=TaskMetrics)
    shipped: RunConfig | None = None
    """The use case without the run's overrides; None where it cannot do without."""
    resolved: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runtime_name(self) -> str:
        """Name of the runtime."""
        return str(self.runtime["name"])


def freeze(config: DictConfig, folder: Path, strategy_name: str) -> RunConfig:
    """Check a composed configuration and freeze it.

    Raises
    ------
    ConfigError
        Naming the key and the cure.
    """
    try:
        raw: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            config, resolve=True, throw_on_missing=True
        )
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "configuration"
        raise ConfigError(f"{key} must be given, for example {key}=VALUE") from None
    for group in ("usecase", "model", "train", "strategy", "runtime", "data", "partition"):
        section(group, raw[group])
    usecase, schema, metrics = _usecase(raw["usecase"])
    each("submission", raw["submission"], {"team": text, "claimed": optional(number())})
    weights = raw["weights"]
    if weights is not None and not Path(str(weights)).is_file():
        raise ConfigError(f"weights: {weights}: no such file")
    runtime = raw["runtime"]
    each("runtime", runtime, RUNTIME_CHECKS)
    serve = runtime.get("serve", False) if raw["serve"] is None else raw["serve"]
    privacy = make_privacy(raw.get("privacy"))
    each(
        "model",
        raw["model"],
        {"name": optional(text), "_target_": optional(text), "params": optional(section)},
    )
    model_name = raw["model"].get("_target_") or raw["model"]["name"]
    if not model_name:
        raise ConfigError("model.name is missing; or give model._target_=module:function")
    return RunConfig(
        usecase=usecase,
        schema=schema,
        metrics=metrics,
        model=ModelSpec(model_name, raw["model"].get("params") or {}),
        train=replace(
            _dataclass(TrainConfig, raw["train"], "train", TRAIN_CHECKS), dp=dp_sgd(privacy)
        ),
        strategy=raw["strategy"],
        strategy_name=strategy_name,
        runtime=runtime,
        sites=_dataclass(SitesConfig, raw["sites"], "sites", SITES_CHECKS),
        early_stopping=_dataclass(
            EarlyStopping, raw["early_stopping"], "early_stopping", STOPPING_CHECKS
        ),
        board=_dataclass(BoardConfig, {**raw["board"], "serve": serve}, "board", BOARD_CHECKS),
        site_data=_site_data(raw["data"], raw["partition"])
        if runtime["name"] != "deployment"
        else (),
        rounds=whole()("rounds", raw["rounds"]),
        seed=whole()("seed", raw["seed"]),
        split_seed=whole()("data.split_seed", raw["data"]["split_seed"]),
        folder=folder,
        team=raw["submission"]["team"],
        claimed=raw["submission"]["claimed"],
        weights=Path(str(weights)) if weights is not None else None,
        resume=flag("resume", raw["resume"]),
        privacy=privacy,
        communication=make_compression(raw.get("communication")),
        resolved=raw,
    )


def make_strategy(config: Mapping[str, Any]) -> Strategy:
    """Instantiate the strategy's server update.

    Waiting for sites is the round loop's job (``sites.quorum``), so Flower's own minima, which
    would wait for ever, are set to one site where the configuration does not name them.

    Raises
    ------
    ConfigError
        If the class does not exist, is no Strategy, or refuses an argument.
    """
    target = config.get("_target_")
    if not target:
        raise ConfigError(
            "strategy._target_ must name a class, e.g. flwr.serverapp.strategy.FedAvg"
        )
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


def _usecase(raw: Mapping[str, Any]) -> tuple[UseCaseInfo, dict[str, Any], TaskMetrics]:
    for key in ("slug", "task", "score"):
        if not raw.get(key):
            raise ConfigError(f"usecase.{key} is missing")
    schema = {key: value for key, value in raw.items() if key not in USECASE_KEYS}
    metrics = metrics_of(load_task(str(raw["task"]), schema))
    shown = texts("usecase.extra_columns", raw.get("extra_columns") or [])
    info = UseCaseInfo(
        slug=slug("usecase.slug", raw["slug"]),
        title=str(raw.get("title") or raw["slug"]),
        description=str(raw.get("description") or ""),
        task=str(raw["task"]),
        score=score_rule(raw["score"], metrics),
        extra_columns=tuple(shown),
    )
    return info, schema, metrics


def _site_data(data: Mapping[str, Any], partition: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Describe each simulated site in the keys of ``site.yaml``."""
    shared: dict[str, Any] = {
        "holdout_fraction": _fraction("data.holdout_fraction", data["holdout_fraction"])
    }
    if data["validation_fraction"] is not None:
        key = "validation_fraction"
        shared[key] = _fraction(f"data.{key}", data[key])
    if data["on_invalid"] is not None:
        shared["on_invalid"] = either("refuse", "drop")("data.on_invalid", data["on_invalid"])
    if data["sites"]:
        if not isinstance(data["sites"], list):
            raise ConfigError(f"data.sites must be a list, as [a.csv,b.csv], got {data['sites']!r}")
        sites = [_file_site(entry, shared) for entry in data["sites"]]
    elif data["dataset"]:
        count = whole(1)("data.num_sites", data["num_sites"])
        names = data["names"] or [f"site_{i}" for i in range(count)]
        if not isinstance(names, list):
            raise ConfigError(f"data.names must be a list, as [north,south], got {names!r}")
        if len(names) != count:
            raise ConfigError(f"data.names has {len(names)} names for data.num_sites={count}")
        each("partition", partition, PARTITION_CHECKS)
        sites = [
            {
                "name": str(name),
                "train": f"dataset:{data['dataset']}",
                **shared,
                "partition": {**partition, "num_sites": count, "index": index},
            }
            for index, name in enumerate(names)
        ]
    else:
        raise ConfigError("no data: give data.sites=[a.csv,b.csv] or data.dataset=NAME")
    repeated = [name for name, count in Counter(s["name"] for s in sites).items() if count > 1]
    if repeated:
        key = "sites" if data["sites"] else "names"
        raise ConfigError(
            f"data.{key}: two sites are called '{repeated[0]}'; "
            "give them different names, as data.sites=[{name: a, train: FILE}, ...]"
        )
    return tuple(
        {"name": s["name"], "data": {k: v for k, v in s.items() if k != "name"}} for s in sites
    )


def _file_site(entry: Any, shared: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(entry, str) and entry.strip():
        return {"name": Path(entry).stem, "train": entry, **shared}
    if isinstance(entry, Mapping) and isinstance(entry.get("train"), str):
        known = {f.name for f in fields(DataSource)}
        for key in entry:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
                raise ConfigError(f"data.sites: unknown key '{key}' in {dict(entry)}; {hint}")
        name = str(entry.get("name") or Path(entry["train"]).stem)
        return {**shared, **entry, "name": name}
    raise ConfigError(f"data.sites: {entry!r} is neither a file nor {{name: ..., train: ...}}")


def _fraction(key: str, value: Any) -> float:
    number()(key, value)
    if not 0 < value < 1:
        raise ConfigError(f"{key} must be between 0 and 1, got {value!r}")
    return float(value)


def _dataclass(
    kind: type[Any], raw: Mapping[str, Any], group: str, checks: Mapping[str, Check]
) -> Any:
    each(group, raw, checks)
    return kind(**raw)


def fingerprint(config: RunConfig) -> str:
    """Return what must not change between a run and its resumption, as JSON text."""
    keep: tuple[str, ...] = ("usecase", "model", "train", "strategy", "sampling")
    keep += ("privacy", "communication")
    keep += ("seed", "data", "partition", "weights")
    return json.dumps({key: config.resolved[key] for key in keep}, sort_keys=True)
