"""The guard of a masked sum: each stage's reply in its form, and nothing beside it."""

import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fl_client.egress.secagg_guard import check_masked, is_masked
from fl_common.errors import EgressError
from strategies.wire.job import PROTOCOL
from strategies.wire.messages import (
    ARRAYS,
    DESCRIBE,
    EVALUATE,
    FIT,
    METRICS,
    STATS,
    TRAIN,
    TrainReply,
    request,
)
from strategies.wire.records import pack_arrays, unpack_arrays
from strategies.wire.secagg import (
    MASKED,
    MASKED_SUM,
    SECAGG,
    STAGE,
    VECTOR,
    KeysReply,
    MaskReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    UnmaskReply,
    UnmaskRequest,
)


def job(**changes):
    values = {"task": "t", "schema": {}, "model": {"name": "linear", "params": {}}, "train": {}}
    return json.dumps({**values, "protocol": PROTOCOL, **changes})


def asks(kind, content):
    return Message(content, 2, kind)


def stage_request(values):
    return asks(MASKED_SUM, RecordDict({SECAGG: values.to_record()}))


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
def test_training_and_evaluation_are_masked_when_the_job_says_so(kind):
    assert is_masked(asks(kind, request(job(secagg=True)))) is True
    assert is_masked(asks(kind, request(job(secagg=False)))) is False
    assert is_masked(asks(kind, request(job()))) is False


@pytest.mark.parametrize("kind", [DESCRIBE, FIT])
def test_counts_and_preprocessing_are_never_masked(kind):
    assert is_masked(asks(kind, request(job(secagg=True)))) is False


def test_further_stages_are_masked_without_a_look_at_the_job():
    assert is_masked(asks(MASKED_SUM, RecordDict())) is True


@pytest.mark.parametrize("text", ["no job", "{}", job(secagg="yes"), job(secagg=True, protocol=9)])
def test_message_without_a_readable_job_is_not_masked(text):
    assert is_masked(asks(TRAIN, request(text))) is False


def test_message_without_a_job_is_not_masked():
    assert is_masked(asks(TRAIN, RecordDict())) is False
    assert is_masked(asks(TRAIN, RecordDict({"config": ConfigRecord({"job": 5})}))) is False


def keys_stage():
    return asks(TRAIN, request(job(secagg=True)))


def shares_stage():
    return stage_request(SharesRequest(session="s", threshold=3))


def mask_stage(num_words=3):
    return stage_request(MaskRequest(session="s", num_sites=3, num_words=num_words))


def unmask_stage():
    return stage_request(UnmaskRequest(session="s"))


KEYS_REPLY = KeysReply(mask_key=b"m" * 512, seal_key=b"s" * 512)
SHARES_REPLY = SharesReply(nodes=[3, 4], sealed_shares=[b"x" * 1024, b"y"])
UNMASK_REPLY = UnmaskReply(shares=[b"z" * 128])


def answer(message, values, **records):
    content = RecordDict({SECAGG: values.to_record()})
    for name, record in records.items():
        content[name] = record
    return Message(content, reply_to=message)


@pytest.mark.parametrize(
    ("stage", "values"),
    [(keys_stage, KEYS_REPLY), (shares_stage, SHARES_REPLY), (unmask_stage, UNMASK_REPLY)],
)
def test_reply_of_a_stage_without_a_vector_may_leave(stage, values):
    message = stage()
    assert check_masked(message, answer(message, values)) is None


def test_reply_to_the_mask_stage_gives_its_vector_for_a_look():
    message, words = mask_stage(), np.arange(3, dtype=np.uint64)
    vector = check_masked(
        message, answer(message, MaskReply(), masked=pack_arrays({VECTOR: words}))
    )
    np.testing.assert_array_equal(unpack_arrays(vector)[VECTOR], words)


def test_empty_reply_is_that_of_empty_lists():
    """Flower cannot type an empty list, and so may leave out the whole record."""
    message = shares_stage()
    assert check_masked(message, Message(RecordDict(), reply_to=message)) is None
    with pytest.raises(EgressError, match="'mask-key': field required"):
        check_masked(keys_stage(), Message(RecordDict(), reply_to=keys_stage()))


@pytest.mark.parametrize("record", [ARRAYS, STATS, METRICS, MASKED, "rows"])
@pytest.mark.parametrize(
    ("stage", "values"),
    [(keys_stage, KEYS_REPLY), (shares_stage, SHARES_REPLY), (unmask_stage, UNMASK_REPLY)],
)
def test_further_record_may_not_leave(stage, values, record):
    message = stage()
    leak = pack_arrays({VECTOR: np.zeros(3, np.uint64)})
    with pytest.raises(EgressError, match=rf"^records \['{record}'\] may not leave masked"):
        check_masked(message, answer(message, values, **{record: leak}))


def test_plain_training_reply_may_not_leave_where_masks_were_asked_for():
    message = keys_stage()
    content = TrainReply({"w": np.zeros(3, np.float32)}, 10).to_records()
    with pytest.raises(EgressError, match="not what may leave in a masked sum"):
        check_masked(message, Message(content, reply_to=message))


@pytest.mark.parametrize(
    "vector",
    [
        {VECTOR: np.zeros(2, np.uint64)},
        {VECTOR: np.zeros(4, np.uint64)},
        {VECTOR: np.zeros((3, 1), np.uint64)},
        {VECTOR: np.zeros(3, np.int64)},
        {VECTOR: np.zeros(3)},
        {"other": np.zeros(3, np.uint64)},
        {VECTOR: np.zeros(3, np.uint64), "second": np.zeros(3, np.uint64)},
        {},
    ],
)
def test_vector_of_another_form_may_not_leave(vector):
    message = mask_stage()
    with pytest.raises(EgressError, match="not of the form that was asked for"):
        check_masked(message, answer(message, MaskReply(), masked=pack_arrays(vector)))


def test_mask_stage_needs_its_vector_and_no_other_record():
    message = mask_stage()
    with pytest.raises(EgressError, match="not of the form"):
        check_masked(message, answer(message, MaskReply()))
    text = ConfigRecord({"rows": "a,b"})
    with pytest.raises(EgressError, match="not of the form"):
        check_masked(message, answer(message, MaskReply(), masked=text))
    with pytest.raises(EgressError, match=r"records \['stats'\]"):
        check_masked(
            message,
            answer(
                message,
                MaskReply(),
                masked=pack_arrays({VECTOR: np.zeros(3, np.uint64)}),
                stats=pack_arrays({"x": np.zeros(3)}),
            ),
        )


SECRET = b"patient-4711"


@pytest.mark.parametrize(
    ("stage", "values", "key"),
    [
        (keys_stage, {"mask-key": b"m" * 513, "seal-key": b"s"}, "mask-key"),
        (keys_stage, {"mask-key": "text", "seal-key": b"s"}, "mask-key"),
        (keys_stage, {"mask-key": b"m"}, "seal-key"),
        (keys_stage, {"mask-key": b"m", "seal-key": b"s", "rows": SECRET}, "rows"),
        (shares_stage, {"nodes": [1.5]}, r"nodes\.0"),
        (shares_stage, {"sealed-shares": [b"x", SECRET * 200]}, r"sealed-shares\.1"),
        (unmask_stage, {"shares": [SECRET * 20]}, r"shares\.0"),
        (unmask_stage, {"nodes": [1]}, "nodes"),
        (mask_stage, {"shares": [SECRET]}, "shares"),
    ],
)
def test_values_of_another_kind_may_not_leave_and_are_not_repeated(stage, values, key):
    message = stage()
    reply = Message(RecordDict({SECAGG: ConfigRecord(values)}), reply_to=message)
    with pytest.raises(EgressError, match=f"masked sum: '{key}'") as caught:
        check_masked(message, reply)
    assert SECRET.decode() not in str(caught.value)


@pytest.mark.parametrize("number", [5, -1, "1", 4])
def test_stage_that_there_is_not_lets_nothing_leave(number):
    content = RecordDict({SECAGG: ConfigRecord({"session": "s", STAGE: number})})
    message = asks(MASKED_SUM, content)
    with pytest.raises(EgressError, match="not what may leave in a masked sum"):
        check_masked(message, answer(message, MaskReply()))


def test_mask_request_without_a_length_lets_nothing_leave():
    content = RecordDict({SECAGG: ConfigRecord({"session": "s", STAGE: 2, "num-sites": 3})})
    message = asks(MASKED_SUM, content)
    vector = pack_arrays({VECTOR: np.zeros(3, np.uint64)})
    with pytest.raises(EgressError, match="'num-words'"):
        check_masked(message, answer(message, MaskReply(), masked=vector))


@pytest.mark.parametrize("stage", [shares_stage, mask_stage, unmask_stage])
@pytest.mark.parametrize(
    "leak", [pack_arrays({"rows": np.arange(6.0)}), MetricRecord({"rows": [1.0, 2.0]})]
)
def test_record_of_another_kind_under_the_right_name_may_not_leave(stage, leak):
    message = stage()
    content = RecordDict({SECAGG: leak})
    if stage is mask_stage:
        content[MASKED] = pack_arrays({VECTOR: np.zeros(3, np.uint64)})
    with pytest.raises(EgressError):
        check_masked(message, Message(content, reply_to=message))
