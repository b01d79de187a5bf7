import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fl_common.errors import (
    DataError,
    DivergedError,
    EgressError,
    PolicyError,
    ReplyError,
    SchemaError,
)
from strategies.wire.job import Job
from strategies.wire.messages import (
    ARRAYS,
    CONFIG,
    JOB,
    METRICS,
    ROUND,
    STATS,
    EvaluateReply,
    SiteReply,
    TrainReply,
    request,
)
from strategies.wire.records import (
    find_record,
    pack_arrays,
    payload_bytes,
    record_of,
    unpack_arrays,
)
from strategies.wire.refusal import Refusal
from tasks.contract import ModelSpec, TrainConfig
from tasks.stats import Stats

JOB_TEXT = Job(
    task="tabular_classification",
    schema={"target": "y", "classes": ["n", "p"]},
    model=ModelSpec("mlp", {"hidden": [8]}),
    train=TrainConfig(lr=0.1 + 0.2),
    strategy="scaffold",
    seed=3,
    fitted={"mean": [0.1, 1e-300]},
)
ARRAYS_OF = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "scalar": np.array(1.5),
    "n": np.array([1, 2], dtype=np.int64),
    "empty": np.zeros((0, 3)),
}


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


def test_arrays_survive_the_wire():
    back = unpack_arrays(pack_arrays(ARRAYS_OF))
    assert back.keys() == ARRAYS_OF.keys()
    for name, array in ARRAYS_OF.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
        assert back[name].flags.writeable


def test_array_that_holds_something_else_than_declared_is_refused():
    record = pack_arrays({"w": np.zeros(3)})
    record["w"].shape = (4,)
    with pytest.raises(ReplyError, match="'w'"):
        unpack_arrays(record)
    record = pack_arrays({"w": np.zeros(3)})
    record["w"].data = b"rubbish"
    with pytest.raises(ReplyError, match="'w'"):
        unpack_arrays(record)


def test_replies_survive_the_wire():
    site = SiteReply("a", 3, 2, Stats({"n": np.array(3)}))
    back = SiteReply.from_records(site.to_records())
    assert (back.name, back.num_train, back.num_holdout, int(back.stats["n"])) == ("a", 3, 2, 3)
    assert len(SiteReply.from_records(SiteReply("a", 3, 2).to_records()).stats) == 0
    evaluated = EvaluateReply.from_records(
        EvaluateReply(Stats({"x": np.array(0.5)}), 7).to_records()
    )
    assert (float(evaluated.stats["x"]), evaluated.num_examples) == (0.5, 7)
    trained = TrainReply({"w": np.ones(2)}, 5, 3, 0.25).to_records()
    assert dict(trained[METRICS]) == {"num-examples": 5, "num-steps": 3, "train-loss": 0.25}
    assert len(trained.array_records) == len(trained.metric_records) == 1  # as Flower expects


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({METRICS: MetricRecord({"num-examples": -1}), STATS: pack_arrays({})}),
        RecordDict({METRICS: MetricRecord({"num-examples": 1.5}), STATS: pack_arrays({})}),
        RecordDict({METRICS: MetricRecord({"num-examples": 1})}),
        RecordDict({METRICS: ConfigRecord({"num-examples": 1}), STATS: pack_arrays({})}),
    ],
)
def test_incomplete_replies_are_refused(records):
    with pytest.raises(ReplyError):
        EvaluateReply.from_records(records)
    with pytest.raises(ReplyError):
        SiteReply.from_records(records)


def test_records_are_found_by_name_and_kind():
    records = request("job", 3, pack_arrays({"w": np.zeros(1)}))
    assert dict(records[CONFIG]) == {JOB: "job", ROUND: 3}
    assert find_record(records, ARRAYS, MetricRecord) is None
    assert record_of(records, CONFIG, ConfigRecord)[ROUND] == 3
    with pytest.raises(ReplyError, match="lacks 'metrics'"):
        record_of(records, METRICS, MetricRecord)


def test_payload_counts_arrays_and_text():
    record = pack_arrays({"w": np.zeros(4)})
    assert payload_bytes(request("12345", 1, record)) == len(record["w"].data) + 5


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (SchemaError("secret 42"), Refusal.SCHEMA),
        (DataError("secret 42"), Refusal.DATA),
        (PolicyError("secret 42"), Refusal.POLICY),
        (DivergedError("secret 42"), Refusal.DIVERGED),
        (EgressError("secret 42"), Refusal.EGRESS),
        (ReplyError("secret 42"), Refusal.PROTOCOL),
        (ValueError("secret 42"), Refusal.INTERNAL),
    ],
)
def test_an_error_leaves_as_a_fixed_code(error, refusal):
    assert Refusal.of(error) is refusal
    assert Refusal.from_code(refusal.code) is refusal
    assert "42" not in refusal.text


def test_flowers_own_codes_are_not_ours():
    assert Refusal.from_code(1) is None
