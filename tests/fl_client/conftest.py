"""A real site on disk, and messages as a server would send them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_client.app import app
from strategies.wire.job import PROTOCOL
from strategies.wire.messages import ARRAYS, CONFIG, FIT, JOB, ROUND, SiteReply, request
from strategies.wire.records import pack_arrays
from strategies.wire.refusal import Refusal
from tasks.registry import load_task

SCHEMA = {"target": "y", "classes": ["n", "p"], "categorical": ["sex"]}


@pytest.fixture(autouse=True)
def identity() -> None:
    """Flower wants to know which task builds a message."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 7, 1, 7


@dataclass
class SiteUnderTest:
    """One site's folder, and a server that asks it."""

    path: Path
    context: Context
    job: dict[str, Any] = field(default_factory=dict)

    @property
    def audit(self) -> list[dict[str, Any]]:
        text = (self.path.parent / "a.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def job_text(self, **changes: Any) -> str:
        return json.dumps({**self.job, **changes})

    def ask(self, kind: str, content: RecordDict) -> Message:
        return app(Message(content, 2, kind), self.context)

    def fit(self, **changes: Any) -> Message:
        return self.ask(FIT, request(self.job_text(**changes)))

    def fitted_job(self, **changes: Any) -> tuple[str, ArrayRecord]:
        """Return the job after the fit exchange, and the first weights."""
        job = {**self.job, **changes}
        reply = SiteReply.from_records(self.fit(**changes).content)
        task = load_task(job["task"], job["schema"])
        fitted = task.prepare(reply.stats)
        from tasks.contract import ModelSpec

        model = task.build(ModelSpec(**job["model"]), fitted, 0)
        return json.dumps({**job, "fitted": fitted}), pack_arrays(model.arrays())

    def with_weights(self, job: str, arrays: ArrayRecord, **config: Any) -> RecordDict:
        return RecordDict({CONFIG: ConfigRecord({JOB: job, ROUND: 1, **config}), ARRAYS: arrays})


MakeSite = Callable[..., SiteUnderTest]


@pytest.fixture
def make_site(csv_sites: list[Path], tmp_path: Path) -> MakeSite:
    """Write a site.yaml over `a.csv` (60 rows) with a policy, and return the site."""

    def make(data: dict[str, Any] | None = None, **policy: Any) -> SiteUnderTest:
        path = tmp_path / f"site_{abs(hash(json.dumps([data, policy]))) % 10**9}.yaml"
        raw = {
            "name": "clinic",
            "data": {"train": csv_sites[0].name, **(data or {})},
            "policy": policy,
            "audit": "a.jsonl",
        }
        path.write_text(yaml.safe_dump(raw))
        context = Context(
            run_id=7,
            node_id=2,
            node_config={"site": str(path)},
            state=RecordDict(),
            run_config={},
        )
        job = {
            "task": "tabular_classification",
            "schema": SCHEMA,
            "model": {"name": "linear", "params": {}},
            "train": {},
            "strategy": "fedavg",
            "protocol": PROTOCOL,
        }
        return SiteUnderTest(path, context, job)

    return make


@pytest.fixture
def site(make_site: MakeSite) -> SiteUnderTest:
    return make_site()


def assert_refused(reply: Message, refusal: Refusal) -> None:
    """The reply is the fixed code and the fixed text, and holds no content."""
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (refusal.code, refusal.text)
    assert not reply.has_content()


@pytest.fixture
def refused() -> Callable[[Message, Refusal], None]:
    return assert_refused


def arrays_of(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}
