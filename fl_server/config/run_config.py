"""What a run was asked to be: Hydra's composed configuration, checked and frozen.

``RunConfig`` has the keys of ``conf/server.yaml`` and says with each what it may hold; no
``DictConfig`` leaves this module.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, InstanceOf

from fl_common.cli_errors import no_global_package
from fl_common.errors import ConfigError
from fl_common.validation import (
    Count,
    Flag,
    NonNegative,
    Number,
    Port,
    Positive,
    Slug,
    Text,
    Whole,
    checked,
    validated,
)
from fl_server.config.instantiation import dp_sgd, make_privacy
from fl_server.config.sources import (
    DataConfig,
    PartitionConfig,
    meant_data,
    simulated_sources,
    site_entry,
)
from fl_server.config.usecase import UseCaseInfo, score_rule
from strategies.privacy.modes import NoPrivacy, Privacy
from strategies.wire.compression import Compression
from strategies.wire.job import Job
from tasks.contract import DataSource, ModelSpec, TrainConfig, metrics_of
from tasks.registry import load_task
from tasks.scores import TaskMetrics

USECASE_KEYS = {"slug", "title", "description", "task", "score", "extra_columns"}
SCORE_KEYS = ("name", "direction")
RENAMED = {
    "weights": "initial_weights",
    "serve": "board.serve",
    "runtime.serve": "board.serve",
    "communication": "compression",
    "usecase.columns_shown": "usecase.extra_columns",
    "usecase.on_bad": "usecase.on_invalid",
    "data.on_bad": "data.on_invalid",
    "usecase.fit": "usecase.resize",
    "usecase.letterbox": "usecase.resize",
    "strategy.fraction_train": "sampling.fraction",
    "strategy.strength": "strategy.lam",
    "model.params.weights": "model.params.pretrained",
}
"""Old keys and what they are called now."""
_MADE = {"schema", "metrics", "sources", "resolved", "folder", "strategy_name", "shipped"}


@checked("sites")
class SitesConfig:
    """When a round may start, and how long it waits."""

    expected: Count | None = None
    quorum: Count | None = None
    wait_seconds: NonNegative = 600.0
    reply_seconds: Positive = 3600.0
    rejoin_seconds: NonNegative = 60.0
    max_update_norm: Positive | None = None


@checked("early_stopping")
class EarlyStopping:
    """Stop after ``patience`` rounds without a validation score better by ``min_delta``."""

    patience: Count | None = None
    min_delta: NonNegative = 0.0


@checked("board")
class BoardConfig:
    """Where the leaderboard is kept and served.

    Parameters
    ----------
    serve : bool or None
        Whether the page is served while rounds arrive; ``None``: in a deployment.
    """

    url: Text | None = None
    serve: Flag | None = None
    host: Text = "127.0.0.1"
    port: Port = 8080


@checked("submission")
class Submission:
    """Who submits, and what score they claim."""

    team: Text = "me"
    claimed: Number | None = None


@checked("runtime")
class SimulationRuntime:
    """All sites in this process."""

    name: Literal["simulation"] = "simulation"
    threads: Count | None = 1


@checked("runtime")
class RayRuntime:
    """Flower's simulation engine on Ray."""

    name: Literal["ray"] = "ray"
    cpus_per_client: Positive = 1.0
    gpus_per_client: NonNegative = 0.0


@checked("runtime")
class DeploymentRuntime:
    """A SuperLink in this process, which sites join over the network."""

    name: Literal["deployment"] = "deployment"
    host: Text = "0.0.0.0"  # noqa: S104  (sites come from elsewhere)
    port: Port = 9092
    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None
    node_keys: tuple[Path, ...] = ()
    open_enrolment: Flag = False
    insecure: Flag = False


@checked()
class RunConfig:
    """One run, fully resolved.

    Parameters
    ----------
    usecase, schema
        What the leaderboard shows of the use case, and what its task is told.
    strategy, sampling : mapping
        ``_target_`` and arguments, which ``fl_server.config.instantiation`` checks.
    allow_targets : tuple of str
        Packages whose classes ``_target_`` may name, beside those that are always allowed.
    sources : tuple of DataSource
        The simulated sites; empty in a deployment, where sites describe themselves.
    resolved : mapping
        The configuration as it was composed, for the record.
    """

    usecase: InstanceOf[UseCaseInfo]
    schema: Mapping[str, Any]
    model: ModelSpec
    train: TrainConfig
    strategy: Mapping[str, Any]
    strategy_name: str
    rounds: Whole
    seed: Whole
    folder: Path
    allow_targets: tuple[Text, ...] = ()
    runtime: Annotated[
        SimulationRuntime | RayRuntime | DeploymentRuntime, Field(discriminator="name")
    ] = SimulationRuntime()
    sites: SitesConfig = SitesConfig()
    early_stopping: EarlyStopping = EarlyStopping()
    board: BoardConfig = BoardConfig()
    submission: Submission = Submission()
    data: DataConfig = DataConfig()
    partition: PartitionConfig = PartitionConfig()
    sources: tuple[DataSource, ...] = ()
    initial_weights: Path | None = None
    resume: Flag = False
    sampling: Mapping[str, Any] | None = None
    privacy: Privacy = field(default_factory=NoPrivacy)
    metrics: InstanceOf[TaskMetrics] = field(default_factory=TaskMetrics)
    compression: Compression = field(default_factory=Compression)
    shipped: RunConfig | None = None
    """The use case without the run's overrides; None where it cannot do without."""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    renamed: ClassVar[Mapping[str, str]] = RENAMED

    @property
    def split_seed(self) -> int:
        """What fixes which rows are held out."""
        return self.data.split_seed

    def job(self, **further: Any) -> Job:
        """Return what the run asks of a site; ``further`` are fields that admission decides."""
        return Job(
            task=self.usecase.task,
            schema=self.schema,
            model=self.model,
            train=self.train,
            seed=self.seed,
            split_seed=self.split_seed,
            **further,
        )

    @property
    def site_data(self) -> tuple[dict[str, Any], ...]:
        """The simulated sites in the keys of ``site.yaml``."""
        return tuple(site_entry(source) for source in self.sources)


def freeze(
    config: DictConfig, folder: Path, strategy_name: str, given: Collection[str] = ()
) -> RunConfig:
    """Check a composed configuration and freeze it.

    Parameters
    ----------
    given : collection of str
        Keys of the command line: what they say of the sites must have an effect.

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
    _refuse_old_keys(raw)
    for group in ("usecase", "strategy", "train"):
        if not isinstance(raw[group], Mapping):
            raise ConfigError(f"{group} must have keys below it, got {raw[group]!r}")
    if "dp" in raw["train"]:
        raise ConfigError("unknown key 'train.dp'; privacy=local_dpsgd trains privately")
    for key in raw.keys() & _MADE:
        raise ConfigError(f"unknown key '{key}'; --help lists every key")
    usecase, schema, metrics = _usecase(raw["usecase"])
    made: dict[str, Any] = {"usecase": usecase, "schema": schema, "metrics": metrics}
    made |= {"privacy": make_privacy(raw.get("privacy")), "resolved": raw}
    made["model"] = _model(raw["model"])
    run = validated(RunConfig, {**raw, **made, "folder": folder, "strategy_name": strategy_name})
    if run.initial_weights is not None and not run.initial_weights.is_file():
        raise ConfigError(f"initial_weights: {run.initial_weights}: no such file")
    deployed = isinstance(run.runtime, DeploymentRuntime)
    serve = deployed if run.board.serve is None else run.board.serve
    return replace(
        run,
        train=replace(run.train, dp=dp_sgd(run.privacy)),
        board=replace(run.board, serve=serve),
        sources=() if deployed else simulated_sources(run.data, run.partition, given),
        resolved={**raw, "data": meant_data(raw["data"], given)},
    )


def _model(raw: Any) -> Any:
    """Put a network of the user's own, ``_target_``, where a shipped model has its name."""
    if not isinstance(raw, Mapping):
        return raw
    given = {key: value for key, value in raw.items() if key != "_target_"}
    given["name"] = raw.get("_target_") or raw.get("name")
    if given["name"] is None:
        raise ConfigError("model.name is missing; or give model._target_=module:function")
    return given


def _refuse_old_keys(raw: Mapping[str, Any]) -> None:
    for old, new in RENAMED.items():
        *parents, last = old.split(".")
        group: Any = raw
        for key in parents:
            group = group.get(key) if isinstance(group, Mapping) else None
        if isinstance(group, Mapping) and last in group:
            raise ConfigError(f"key '{old}' was renamed to '{new}'")


def _usecase(raw: Mapping[str, Any]) -> tuple[UseCaseInfo, dict[str, Any], TaskMetrics]:
    if isinstance(raw.get("usecase"), Mapping):
        why = "its keys stand below 'usecase.usecase'"
        raise ConfigError(no_global_package("the use case", why))
    for key in ("slug", "task", "score"):
        if not raw.get(key):
            raise ConfigError(f"usecase.{key} is missing")
    if isinstance(raw["score"], Mapping) and (unknown := raw["score"].keys() - SCORE_KEYS):
        key = sorted(map(str, unknown))[0]
        raise ConfigError(f"unknown key 'usecase.score.{key}'; known: {', '.join(SCORE_KEYS)}")
    schema = {key: value for key, value in raw.items() if key not in USECASE_KEYS}
    metrics = metrics_of(load_task(str(raw["task"]), schema))
    columns = raw.get("extra_columns") or ()
    info = UseCaseInfo(
        slug=validated(Slug, raw["slug"], prefix="usecase.slug"),
        title=str(raw.get("title") or raw["slug"]),
        description=str(raw.get("description") or ""),
        task=str(raw["task"]),
        score=score_rule(raw["score"], metrics),
        extra_columns=validated(tuple[Text, ...], columns, prefix="usecase.extra_columns"),
    )
    return info, schema, metrics


def fingerprint(config: RunConfig) -> str:
    """Return what must not change between a run and its resumption, as JSON text."""
    parts: tuple[str, ...] = ("usecase", "schema", "model", "train", "strategy", "sampling")
    parts += ("compression", "seed", "data", "partition", "initial_weights")
    plain = {part: _plain(getattr(config, part)) for part in parts}
    privacy = {"mode": type(config.privacy).__name__, **_plain(config.privacy)}
    return json.dumps({**plain, "privacy": privacy}, sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
