"""One job at this site: checked against the site's policy, with all that it needs here.

A message carries the job as a text, and a run sends the same text every time. What follows from the
text alone (task, model) and from the site's files alone (the rows) is made once and kept. Knows no
Flower type.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property, lru_cache

from fl_client.policy.policy import Policy
from fl_client.policy.site import SiteConfig
from fl_client.state.memory import RunMemory
from fl_client.state.privacy_budget import PrivacyBudget
from fl_common.errors import DataError, ReplyError
from strategies.site_state import SiteState
from strategies.wire.job import Job
from tasks.contract import DataSource, Model, SiteData, Task
from tasks.registry import load_task
from tasks.sites.data import require_distinct
from tasks.sites.file_version import file_version

log = logging.getLogger("fedleague.site")

MAX_SOURCES = 4096
"""How many sites' rows are kept (a simulation has many); of one site only the last reading."""


class JobParts:
    """What a job says, whichever site it reaches.

    Attributes
    ----------
    job : Job
    task : Task
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.task: Task = load_task(job.task, job.schema)
        self.schema_text = json.dumps(job.schema, sort_keys=True)

    @cached_property
    def model(self) -> Model:
        """The job's model, built once; whoever uses it loads its weights first.

        Raises
        ------
        ReplyError
            If the job carries no fitted preprocessing.
        """
        if self.job.fitted is None:
            raise ReplyError("the job carries no fitted preprocessing")
        return self.task.build(self.job.model, self.job.fitted, self.job.seed)


@lru_cache(maxsize=4)
def job_parts(job_text: str) -> JobParts:
    """Return what a job's text says; the same object for the same text."""
    return JobParts(Job.from_json(job_text))


@dataclass(frozen=True)
class SiteJob:
    """A job that this site's policy allows.

    Parameters
    ----------
    site : SiteConfig
    parts : JobParts
    """

    site: SiteConfig
    parts: JobParts

    @classmethod
    def open(cls, site: SiteConfig, job_text: str) -> SiteJob:
        """Decode a job and check it against the policy; no data is read yet.

        Raises
        ------
        ReplyError
            If the text is no job.
        PolicyError
            If it asks for more than the site allows.
        """
        site.policy.check(Job.from_json(job_text))
        kind, _, dataset = site.source.train.partition(":")
        if kind == "dataset":
            site.policy.check_plugin("datasets", dataset)
        return cls(site, job_parts(job_text))

    @property
    def job(self) -> Job:
        """What the server asks for."""
        return self.parts.job

    @property
    def policy(self) -> Policy:
        """What the site allows."""
        return self.site.policy

    @property
    def task(self) -> Task:
        """The kind of learning."""
        return self.parts.task

    @property
    def model(self) -> Model:
        """The job's model; load weights before use."""
        return self.parts.model

    @cached_property
    def memory(self) -> RunMemory | None:
        """The files of the job's run; None where the site, or the run, has none."""
        folder = self.site.memory
        return RunMemory(folder, self.site.name, self.job.run) if folder and self.job.run else None

    @cached_property
    def data(self) -> SiteData:
        """The site's rows, read when first asked for.

        Raises
        ------
        DataError, SchemaError
            If they cannot be used.
        PolicyError
            If they are too few to answer from.
        """
        data = _read(self.parts, self.site.source)
        self.policy.check_rows("training split", data.num_train)
        self.policy.check_rows("holdout split", data.num_holdout)
        if data.num_validation:
            self.policy.check_rows("validation split", data.num_validation)
        return data

    def budget(self, state: SiteState) -> PrivacyBudget:
        """Return what private training may spend.

        It is kept in the site's file, else in the run's own, which is never rolled back (a round
        that is replayed spends twice), else in what the site remembers.
        """
        run_file = self.memory.budget_file if self.memory is not None else None
        return PrivacyBudget(self.policy, self.site.privacy_budget or run_file, state)


_readings: OrderedDict[DataSource, tuple[tuple[object, ...], SiteData]] = OrderedDict()


def _read(parts: JobParts, source: DataSource) -> SiteData:
    """Read a site's rows, or return the last reading if neither job nor file has changed."""
    seed = parts.job.split_seed if source.split_seed is None else source.split_seed
    files = (source.train, source.validation, source.holdout)
    asked = (parts.job.task, parts.schema_text, seed, *(file_version(file) for file in files))
    known = _readings.get(source)
    if known is not None and known[0] == asked:
        return known[1]
    require_distinct(source)
    try:
        data = parts.task.read(source, seed)
    except MemoryError as error:
        raise DataError(f"{source.train}: does not fit in memory") from error
    for note in data.notes:
        log.info("%s: %s", source.name, note)
    _readings[source] = (asked, data)
    while len(_readings) > MAX_SOURCES:
        _readings.popitem(last=False)
    return data
