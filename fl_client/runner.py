"""What a site does with a job: describe itself, fit, train, evaluate. Knows no Flower type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fl_client.policy.policy import Policy
from fl_client.site_job import SiteJob
from fl_client.state.privacy_budget import PrivacyBudget
from fl_common.errors import DataError, PolicyError
from strategies.local import LocalResult, LocalRound
from strategies.registry import client_update, personaliser
from strategies.site_state import SiteState
from strategies.wire.compression import applies, encode
from strategies.wire.messages import ROUND, EvaluateReply, SiteReply
from tasks.contract import (
    HOLDOUT,
    VALIDATION,
    Arrays,
    LocalObjective,
    LocalOutcome,
    Model,
    SiteData,
    Task,
    TrainConfig,
    child_seed,
)
from tasks.stats import Stats


def describe(job: SiteJob) -> SiteReply:
    """Return the site's name and row counts."""
    data = job.data
    return SiteReply(
        job.site.name, data.num_train, data.num_holdout, num_validation=data.num_validation
    )


def fit(job: SiteJob) -> SiteReply:
    """Return the summands from which the global preprocessing is fitted."""
    return replace(describe(job), stats=job.task.fit(job.data, job.policy.min_group_size))


def train(
    job: SiteJob,
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
    data, asked = job.data, job.job
    if not job.policy.weights_may_leave:
        raise PolicyError("policy.weights_may_leave is false: this site only evaluates")
    update = client_update(asked.strategy, job.policy.custom_code)
    arrays, extra = received
    job.model.load(arrays)
    seed = child_seed(asked.seed, "train", job.site.name, round_of(config))
    task = cast(Task, _PolicyTask(job.task, job.policy, job.budget(state), asked.train))
    return update(
        LocalRound(task, job.model, data, asked.train, arrays, config, seed, state, extra)
    )


def evaluate(
    job: SiteJob, arrays: Arrays, state: SiteState | None = None, split: str = HOLDOUT
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
    data = job.data
    num_rows = _num_evaluated(data, split)
    model = job.model
    own = personaliser(job.job.strategy, job.policy.custom_code)
    model.load(own(arrays, state) if own is not None and state is not None else arrays)
    stats = _large_subgroups(job.task.evaluate(model, data, split), data, job.policy, split)
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


def empty_stats(job: SiteJob) -> Stats:
    """Return all-zero metric summands: the layout of a masked evaluation."""
    return job.task.empty_stats(job.model)


def compressed(
    job: SiteJob,
    trained: Arrays,
    received: Arrays,
    config: Mapping[str, object],
    state: SiteState,
) -> Arrays | None:
    """Return the encoded update; None where the job wants the weights as they are."""
    compression = job.job.compression
    if not applies(received, compression):
        return None
    seed = child_seed(job.job.seed, "rounding", job.site.name, round_of(config))
    return encode(trained, received, compression, state, np.random.default_rng(seed))


def spent_epsilon(job: SiteJob, state: SiteState) -> float | None:
    """Return what private training has spent here so far; None where the job asks for none.

    A training without noise has no finite one, and reports none.
    """
    noise = job.job.train.dp
    if noise is None:
        return None
    spent = job.budget(state).spent(noise.delta)
    return spent if math.isfinite(spent) else None


def round_of(config: Mapping[str, object]) -> int:
    """Return the round that a message belongs to; 0 where it says none."""
    number = config.get(ROUND, 0)
    return number if isinstance(number, int) else 0


class _PolicyTask:
    """A task that trains no more than policy and budget allow, whatever a client update reads."""

    def __init__(
        self, task: Task, policy: Policy, budget: PrivacyBudget, asked: TrainConfig
    ) -> None:
        self._task = task
        self._policy = policy
        self._budget = budget
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
    ) -> LocalOutcome:
        self._policy.check_train(config)
        if config.dp != self._asked.dp:
            raise PolicyError("the client update would train with other noise than the job says")
        if config.dp is not None and not getattr(model, "trains_privately", False):
            raise PolicyError("this model cannot be trained with differential privacy")
        self._budget.spend(config, data.num_train)
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
