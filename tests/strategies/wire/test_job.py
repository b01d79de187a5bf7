"""The job: typed to its leaves, the same bytes for the same job, refused by its key."""

import json

import pytest

from fl_common.errors import ConfigError, ReplyError
from strategies.wire.job import Job
from tasks.contract import DpSgd, ModelSpec, TrainConfig

JOB = Job(
    task="tabular_classification",
    schema={"target": "y", "classes": ["n", "p"], "subgroups": {"old": {"min": 65.5}}},
    model=ModelSpec("mlp", {"hidden": [8]}),
    train=TrainConfig(lr=0.1 + 0.2, dp=DpSgd(1.1, 1.0, 1e-5)),
    strategy="scaffold",
    seed=3,
    fitted={"mean": [0.1, 1e-300], "name": None},
)


def test_job_travels_whole():
    back = Job.from_json(JOB.to_json())
    assert back == JOB
    assert isinstance(back.train.dp, DpSgd)


def test_the_same_job_is_the_same_text():
    text = JOB.to_json()
    assert Job.from_json(text).to_json() == text
    assert '"lr":0.30000000000000004' in text
    assert "1e-300" in text


def test_a_text_is_decoded_once():
    text = JOB.to_json()
    assert Job.from_json(text) is Job.from_json(text)


JOB_TEXT = Job(
    task="tabular_classification",
    schema={"target": "y", "classes": ["n", "p"]},
    model=ModelSpec("mlp", {"hidden": [8]}),
    train=TrainConfig(lr=0.1 + 0.2),
    strategy="scaffold",
    seed=3,
    fitted={"mean": [0.1, 1e-300]},
)


def test_job_survives_the_wire_with_every_bit():
    assert Job.from_json(JOB_TEXT.to_json()) == JOB_TEXT
    assert Job.from_json(JOB_TEXT.to_json()).train.lr == 0.1 + 0.2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("not json", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"protocol": 99}', "protocol 99"),
        (JOB_TEXT.to_json().replace('"seed"', '"sead"'), "sead"),
        (JOB_TEXT.to_json().replace('"lr"', '"learning"'), "cannot be read"),
    ],
)
def test_other_jobs_are_refused(text, match):
    with pytest.raises(ReplyError, match=match):
        Job.from_json(text)


def changed(path, value):
    raw = json.loads(JOB.to_json())
    *outer, key = path.split(".")
    target = raw
    for name in outer:
        target = target[name]
    target[key] = value
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("task", 5),
        ("task", ""),
        ("schema", ["y"]),
        ("model", "mlp"),
        ("model.name", None),
        ("model.params", [1]),
        ("train.lr", "0.1"),
        ("train.batch_size", 2.5),
        ("train.local_epochs", True),
        ("train.dp.noise_multiplier", float("nan")),
        ("train.dp.delta", 2),
        ("seed", "3"),
        ("seed", 1.0),
        ("split_seed", None),
        ("strategy", ["fedavg"]),
        ("secagg", 1),
        ("run", None),
    ],
)
def test_wrong_value_is_refused_by_its_key(path, value):
    with pytest.raises(ReplyError, match="cannot be read") as refused:
        Job.from_json(changed(path, value))
    assert f"job.{path}" in str(refused.value)


@pytest.mark.parametrize("path", ["sead", "model.nam", "train.learning", "train.dp.norm"])
def test_unknown_key_is_refused_at_every_level(path):
    with pytest.raises(ReplyError, match=f"unknown key 'job.{path}'"):
        Job.from_json(changed(path, 1))


@pytest.mark.parametrize(
    "text",
    ["", "null", "5", "[]", '"job"', "{}", "[" * 5000, '{"protocol": 1}', '{"protocol": "1"}'],
)
def test_anything_else_is_no_job(text):
    with pytest.raises(ReplyError):
        Job.from_json(text)


def test_a_job_is_checked_where_it_is_made():
    given = {"schema": {}, "model": ModelSpec("m"), "train": TrainConfig()}
    with pytest.raises(ConfigError, match=r"job\.seed"):
        Job(task="t", seed="3", **given)
