"""Messages of a masked sum: they travel whole, and nothing else is one."""

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_common.errors import ReplyError
from strategies.wire.secagg import (
    MASKED_SUM,
    REPLIES,
    SECAGG,
    STAGE,
    KeysReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    Stage,
    UnmaskReply,
    UnmaskRequest,
    request_of,
    stage_of,
)

MESSAGES = [
    KeysReply(mask_key=b"m", seal_key=b"s"),
    SharesRequest(
        session="sum", nodes=[1, 2], mask_keys=[b"a", b"b"], seal_keys=[b"c", b"d"], threshold=2
    ),
    SharesReply(nodes=[2], sealed_shares=[b"x"]),
    MaskRequest(session="sum", nodes=[2], sealed_shares=[b"x"], num_sites=2, num_words=10),
    UnmaskRequest(session="sum", survivors=[1, 2]),
    UnmaskReply(shares=[b"y", b"z"]),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_message_travels(message):
    assert type(message).from_record(message.to_record()) == message


def test_empty_list_is_left_out_because_flower_cannot_type_it():
    record = UnmaskRequest(session="sum", survivors=[1]).to_record()
    assert record == {"session": "sum", "stage": 3, "survivors": [1]}


@pytest.mark.parametrize(
    ("kind", "values", "key"),
    [
        (KeysReply, {"mask-key": b"m"}, "seal-key"),
        (KeysReply, {"mask-key": "text", "seal-key": b"s"}, "mask-key"),
        (KeysReply, {"mask-key": b"m" * 600, "seal-key": b"s"}, "mask-key"),
        (SharesReply, {"nodes": [1.5]}, "nodes.0"),
        (SharesReply, {"nodes": [True]}, "nodes.0"),
        (SharesReply, {"sealed-shares": b"x"}, "sealed-shares"),
        (UnmaskReply, {"shares": [b"x" * 200]}, "shares.0"),
        (UnmaskReply, {"rows": [1]}, "rows"),
        (SharesRequest, {"session": "a", "stage": 2, "threshold": 2}, "stage"),
        (SharesRequest, {"session": "a", "stage": 1, "threshold": 0}, "threshold"),
        (MaskRequest, {"session": "a", "stage": 2, "num-sites": 2}, "num-words"),
        (UnmaskRequest, {"stage": 3}, "session"),
    ],
)
def test_anything_else_is_refused_by_its_key(kind, values, key):
    with pytest.raises(ReplyError, match=f"'{key}'") as refused:
        kind.from_record(ConfigRecord(values))
    assert "text" not in str(refused.value)


def test_error_does_not_show_the_value():
    with pytest.raises(ReplyError) as refused:
        UnmaskReply.from_record(ConfigRecord({"shares": ["a-secret"]}))
    assert "a-secret" not in str(refused.value)


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def _asked(values, kind=MASKED_SUM):
    return Message(RecordDict({SECAGG: ConfigRecord(values)}), 1, kind)


def test_stage_of_a_request():
    assert stage_of(_asked({}, "train")) == Stage.KEYS
    assert stage_of(_asked({STAGE: 2})) == Stage.MASK
    for unknown in (7, "mask", [1]):
        with pytest.raises(ReplyError, match="no stage"):
            stage_of(_asked({STAGE: unknown}))
    with pytest.raises(ReplyError, match="lacks 'secagg'"):
        stage_of(Message(RecordDict(), 1, MASKED_SUM))


@pytest.mark.parametrize("message", [m for m in MESSAGES if hasattr(m, "stage")])
def test_request_is_known_by_its_stage(message):
    assert request_of(message.to_record()) == message


@pytest.mark.parametrize("stage", [0, 4, 7, "1", True])
def test_request_of_no_further_stage_is_refused(stage):
    with pytest.raises(ReplyError, match="no further stage"):
        request_of(ConfigRecord({"session": "a", STAGE: stage}))


def test_every_stage_that_is_answered_has_a_reply():
    assert REPLIES.keys() == set(Stage) - {Stage.DONE}
