"""What a site does with a job: read its data once, then fit, train and evaluate.

Knows no Flower type. One runner serves every message of a process, so that data is read once
and the model is built once per job, not per message.
"""

from __future__ import annotations

import json
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np

from fl_client.policy.policy import Policy
from fl_client.policy.site import SiteConfig
from fl_client.state.memory import memory_of
from fl_client.state.privacy_budget import PrivacyBudget
from fl_common.errors import DataError, PolicyError, ReplyError
from strategies.local import LocalResult, LocalRound
from strategies.registry import client_update, personaliser
from strategies.site_state import SiteState
from strategies.wire.compression import applies, encode
from strategies.wire.job import Job
from strategies.wire.messages import EvaluateReply, SiteReply
from tasks.contract import (
    HOLDOUT,
    VALIDATION,
    Arrays,
    DataSource,
    LocalObjective,
    Model,
    SiteData,
    Task,
    TrainConfig,
    TrainOutcome,
    child_seed,
)
from tasks.registry import load_task
from tasks.sites.data import require_distinct
from tasks.sites.file_version import file_version
from tasks.stats import Stats
from tasks.trees.variable_size import VariableSizeModel

log = logging.getLogger("fedleague.site")

MAX_SOURCES = 4096
"""How many sites' rows are kept (a simulation has many); of one site only the last reading."""


def open_data(site: SiteConfig, job_text: str) -> SiteData:
    """Read the site's data for a job, after checking the job against the policy."""
    return _open(site, job_text)[1]


def describe(site: SiteConfig, job_text: str) -> SiteReply:
    """Return the site's name and row counts."""
    data = open_data(site, job_text)
    return _counts(site, data)


def fit(site: SiteConfig, job_text: str) -> SiteReply:
    """Return the summands from which the global preprocessing is fitted."""
    task, data = _open(site, job_text)
    stats = task.fit(data, site.policy.min_group_size)
    return replace(_counts(site, data), stats=stats)


def _counts(site: SiteConfig, data: SiteData) -> SiteReply:
    return SiteReply(
        site.name, data.num_train, data.num_holdout, num_validation=data.num_validation
    )


def train(
    site: SiteConfig,
    job_text: str,
    received: tuple[Arrays, Arrays],
    config: Mapping[str, object],
    state: SiteState,
) -> LocalResult:
    """Run the strategy's client update on the site's training rows.

    Parameters
    ----------
    received : (weights, extra)
        The model, and further arrays of the strategy's server update.
    config : mapping
        The round's scalars; ``server-round`` seeds the batch order.
    """
    task, data = _open(site, job_text)
    if not site.policy.weights_may_leave:
        raise PolicyError("policy.weights_may_leave is false: this site only evaluates")
    job = Job.from_json(job_text)
    half = client_update(job.strategy, site.policy.custom_code)
    arrays, extra = received
    model = _model(job_text)
    model.load(arrays)
    server_round = config.get("server-round", 0)
    seed = child_seed(
        job.seed, "train", site.name, server_round if isinstance(server_round, int) else 0
    )
    ledger = _ledger(site, job_text, state)
    task = cast(Task, _PolicyTask(task, site.policy, ledger, job.train))
    return half(LocalRound(task, model, data, job.train, arrays, config, seed, state, extra))


def variable_size_model(job_text: str) -> VariableSizeModel | None:
    """Return the job's model where it judges its own replies, for the egress guard."""
    model = _model(job_text)
    return model if isinstance(model, VariableSizeModel) else None


def evaluate(
    site: SiteConfig,
    job_text: str,
    arrays: Arrays,
    state: SiteState | None = None,
    split: str = HOLDOUT,
) -> EvaluateReply:
    """Return the metric summands on the site's held-out rows, or on those that choose.

    Which rows these are, the site has decided: a job cannot move a row from one split to another.

    Parameters
    ----------
    state : SiteState or None
        The site's memory, from which a personal strategy makes the site's own model; None
        evaluates the model as received (the baseline).

    Raises
    ------
    PolicyError
        If the server asks for any other rows.
    DataError
        If the site has no validation rows: no other rows stand in for them.
    """
    task, data = _open(site, job_text)
    num_rows = _num_evaluated(data, split)
    model = _model(job_text)
    own = personaliser(Job.from_json(job_text).strategy, site.policy.custom_code)
    model.load(own(arrays, state) if own is not None and state is not None else arrays)
    stats = _large_subgroups(task.evaluate(model, data, split), data, site.policy, split)
    return EvaluateReply(stats, num_rows)


def _num_evaluated(data: SiteData, split: str) -> int:
    """Return how many rows an evaluation is about, if it may be asked for."""
    sizes = {HOLDOUT: data.num_holdout, VALIDATION: data.num_validation}
    if split not in sizes:
        raise PolicyError(f"a site evaluates on {HOLDOUT} or {VALIDATION}, not on {split!r}")
    if not sizes[split]:
        raise DataError(
            f"the server asks for the {split} split, and this site has none; set "
            "data.validation_fraction, or data.validation, in site.yaml"
        )
    return sizes[split]


def empty_stats(job_text: str) -> Stats:
    """Return all-zero metric summands: the layout of a masked evaluation."""
    return _task(job_text).empty_stats(_model(job_text))


def compressed(
    site: SiteConfig,
    job_text: str,
    trained: Arrays,
    received: Arrays,
    config: Mapping[str, object],
    state: SiteState,
) -> Arrays | None:
    """Return the encoded update; None where the job wants the weights as they are."""
    job = Job.from_json(job_text)
    if not applies(received, job.communication):
        return None
    server_round = config.get("server-round", 0)
    number = server_round if isinstance(server_round, int) else 0
    rng = np.random.default_rng(child_seed(job.seed, "rounding", site.name, number))
    return encode(trained, received, job.communication, state, rng)


def spent_epsilon(site: SiteConfig, job_text: str, state: SiteState) -> float | None:
    """Return what private training has spent here so far; None where the job asks for none.

    A training without noise has no finite one, and reports none.
    """
    noise = Job.from_json(job_text).train.dp
    if noise is None:
        return None
    spent = _ledger(site, job_text, state).spent(noise.delta)
    return spent if math.isfinite(spent) else None


def _ledger(site: SiteConfig, job_text: str, state: SiteState) -> PrivacyBudget:
    """Return the site's ledger; without one, the run's own file: a replayed round spends twice."""
    memory = memory_of(site, job_text)
    run_file = memory.ledger if memory is not None else None
    return PrivacyBudget(site.policy, site.ledger or run_file, state)


class _PolicyTask:
    """A task that trains no more than policy and budget allow, whatever a client update reads."""

    def __init__(
        self, task: Task, policy: Policy, ledger: PrivacyBudget, asked: TrainConfig
    ) -> None:
        self._task = task
        self._policy = policy
        self._ledger = ledger
        self._asked = asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def train(
        self,
        model: Model,
        data: SiteData,
        config: TrainConfig,
        objective: LocalObjective,
        seed: int,
    ) -> TrainOutcome:
        self._policy.check_train(config)
        if config.dp != self._asked.dp:
            raise PolicyError("the client update would train with other noise than the job says")
        if config.dp is not None and not getattr(model, "trains_privately", False):
            raise PolicyError("this model cannot be trained with differential privacy")
        self._ledger.spend(config, data.num_train)
        return self._task.train(model, data, config, objective, seed)


def _large_subgroups(stats: Stats, data: SiteData, policy: Policy, split: str) -> Stats:
    """Leave out the sums of subgroups that are too small in this split here.

    Data that do not say how large their subgroups are send none, unless any size may leave.
    """
    if policy.min_subgroup_rows <= 1:
        return stats
    count: Callable[[str], Mapping[str, int]] | None = getattr(data, "subgroup_rows", None)
    sizes = count(split) if count is not None else {}
    num_rows = _num_evaluated(data, split)
    kept = {
        f"subgroups/{name}"
        for name, size in sizes.items()
        if policy.subgroup_may_leave(size, num_rows)
    }

    def may_leave(name: str) -> bool:
        scope, _, rest = name.partition("/")
        return scope != "subgroups" or f"{scope}/{rest.partition('/')[0]}" in kept

    return Stats({name: array for name, array in stats.items() if may_leave(name)})


def _open(site: SiteConfig, job_text: str) -> tuple[Task, SiteData]:
    """Check the job against the policy, then read the site's data (cached)."""
    job = Job.from_json(job_text)
    site.policy.check(job)
    kind, _, dataset = site.source.train.partition(":")
    if kind == "dataset":
        site.policy.check_plugin("datasets", dataset)
    task = _task(job_text)
    data = _data(job.task, _schema_key(job_text), site.source, job.split_seed)
    site.policy.check_rows("training split", data.num_train)
    site.policy.check_rows("holdout split", data.num_holdout)
    if data.num_validation:
        site.policy.check_rows("validation split", data.num_validation)
    return task, data


@lru_cache(maxsize=16)
def _task(job_text: str) -> Task:
    job = Job.from_json(job_text)
    return load_task(job.task, job.schema)


@lru_cache(maxsize=16)
def _schema_key(job_text: str) -> str:
    return json.dumps(Job.from_json(job_text).schema, sort_keys=True)


_readings: OrderedDict[DataSource, tuple[tuple[object, ...], SiteData]] = OrderedDict()


def _data(task_name: str, schema: str, source: DataSource, split_seed: int) -> SiteData:
    """Read a site's rows, or return the last reading if neither job nor file has changed."""
    seed = split_seed if source.split_seed is None else source.split_seed
    files = (source.train, source.validation, source.holdout)
    asked = (task_name, schema, seed, *(file_version(file) for file in files))
    known = _readings.get(source)
    if known is not None and known[0] == asked:
        return known[1]
    require_distinct(source)
    try:
        data = load_task(task_name, json.loads(schema)).read(source, seed)
    except MemoryError as error:
        raise DataError(f"{source.train}: does not fit in memory") from error
    for note in data.notes:
        log.info("%s: %s", source.name, note)
    _readings[source] = (asked, data)
    while len(_readings) > MAX_SOURCES:
        _readings.popitem(last=False)
    return data


@lru_cache(maxsize=4)
def _model(job_text: str) -> Model:
    job = Job.from_json(job_text)
    if job.fitted is None:
        raise ReplyError("the job carries no fitted preprocessing")
    return _task(job_text).build(job.model, job.fitted, job.seed)
