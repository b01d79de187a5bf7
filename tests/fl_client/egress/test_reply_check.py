"""What a reply may carry, asked of the check itself: exactly what its message asks for."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl_client.egress import reply_check
from fl_client.egress.reply_check import check_reply
from fl_client.policy.site import site_from_mapping
from fl_common.errors import EgressError, ReplyError
from strategies.wire.compression import Compression, encode
from strategies.wire.job import PROTOCOL
from strategies.wire.messages import (
    ARRAYS,
    DESCRIBE,
    EVALUATE,
    EXTRA,
    FIT,
    METRICS,
    NAME,
    SITE,
    STATS,
    TRAIN,
    UPDATE,
    EvaluateReply,
    SiteReply,
    TrainReply,
    request,
)
from strategies.wire.records import pack_arrays
from strategies.wire.refusal import Refusal
from strategies.wire.secagg import MASKED, MASKED_SUM, SECAGG, VECTOR, MaskReply, MaskRequest
from tasks.stats import Stats

WEIGHTS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.zeros(2),
    "batches": np.array(3),
}
COUNTS = Stats({"rows": np.arange(3), "sums": np.linspace(0, 1, 3)})
SUMMANDS = Stats(
    {f"{scope}/x": np.ones(2) for scope in ("overall", "subgroups/a", "blocks/b", "attributions")}
)


@pytest.fixture
def check(tmp_path):
    """Check a reply of the site named "clinic" that holds ``content``."""
    site = site_from_mapping({"name": "clinic", "data": {"train": "a.csv"}}, "test", tmp_path)

    def checked(message, content):
        return check_reply(message, Message(content, reply_to=message), site)

    return checked


def job(**changes):
    values = {"task": "t", "schema": {}, "model": {"name": "linear", "params": {}}, "train": {}}
    return json.dumps({**values, "protocol": PROTOCOL, **changes})


def asks(kind, arrays=WEIGHTS, extra=None, **changes):
    sent = pack_arrays(arrays) if kind in (TRAIN, EVALUATE) else None
    content = request(job(**changes), 1, sent)
    if extra is not None:
        content[EXTRA] = pack_arrays(extra)
    return Message(content, 2, kind)


def site_reply(**changes):
    return SiteReply(**{"name": "clinic", "num_train": 48, "num_holdout": 12, **changes})


HONEST = {
    DESCRIBE: lambda: site_reply(memory_round=3, num_validation=4).to_records(),
    FIT: lambda: site_reply(stats=COUNTS).to_records(),
    TRAIN: lambda: TrainReply(WEIGHTS, 48, 3, 0.5, 1.25).to_records(),
    EVALUATE: lambda: EvaluateReply(SUMMANDS, 12).to_records(),
}


@pytest.mark.parametrize("kind", HONEST)
def test_honest_reply_may_leave(check, kind):
    assert check(asks(kind), HONEST[kind]()) is None


MAY_LEAVE = {
    DESCRIBE: [SITE, METRICS],
    FIT: [SITE, METRICS, STATS],
    TRAIN: [ARRAYS, METRICS, EXTRA, UPDATE],
    EVALUATE: [STATS, METRICS],
}
RECORDS = [ARRAYS, EXTRA, METRICS, SITE, STATS, UPDATE, SECAGG, "rows"]


@pytest.mark.parametrize(
    ("kind", "record"), [(kind, record) for kind in MAY_LEAVE for record in MAY_LEAVE[kind]]
)
def test_record_of_another_kind_may_not_leave(check, kind, record):
    content = HONEST[kind]()
    content[record] = MetricRecord({"x": 1}) if record == SITE else ConfigRecord({"x": "a,b"})
    with pytest.raises(EgressError, match=f"^record '{record}' is a (Metric|Config)Record$"):
        check(asks(kind), content)


@pytest.mark.parametrize(
    ("kind", "record"),
    [(kind, record) for kind in MAY_LEAVE for record in RECORDS if record not in MAY_LEAVE[kind]],
)
def test_record_of_another_message_may_not_leave(check, kind, record):
    content = HONEST[kind]()
    content[record] = pack_arrays({"x": np.zeros(2)})
    with pytest.raises(EgressError, match=rf"\['{record}'\] may not leave in a '{kind}' reply"):
        check(asks(kind), content)


@pytest.mark.parametrize("kind", HONEST)
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("age-of-the-first", 71, "number 'age-of-the-first' may not leave"),
        (None, [1.0, 2.0], "is not one finite number"),
        (None, float("nan"), "is not one finite number"),
        (None, float("inf"), "is not one finite number"),
    ],
)
def test_number_that_is_not_named_or_not_one_may_not_leave(check, kind, name, value, why):
    content = HONEST[kind]()
    content[METRICS][name or next(iter(content[METRICS]))] = value
    with pytest.raises(EgressError, match=why):
        check(asks(kind), content)


@pytest.mark.parametrize(
    "text", [{NAME: "other"}, {NAME: "clinic", "note": "x"}, {NAME: b"clinic"}, {}]
)
def test_no_text_leaves_but_the_sites_own_name(check, text):
    content = site_reply().to_records()
    content[SITE] = ConfigRecord(text)
    with pytest.raises(EgressError, match="the site's name, and nothing else"):
        check(asks(FIT), content)


def changed(name, array):
    return {**WEIGHTS, name: array}


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (changed("w", np.zeros((3, 2), np.float32)), r"weight 'w' is float32\[3, 2\], not as rec"),
        (changed("w", np.zeros((2, 3))), r"weight 'w' is float64\[2, 3\], not as received"),
        (changed("batches", np.array([3])), r"weight 'batches' is int64\[1\], not as received"),
        (changed("rows", np.zeros(9)), "weights that were not asked for"),
        ({"w": WEIGHTS["w"]}, "weights that were not asked for"),
        ({}, "weights that were not asked for"),
        (changed("b", np.array([0.0, np.nan])), "'b' holds a value that is not finite"),
        (changed("b", np.array([-np.inf, 0.0])), "'b' holds a value that is not finite"),
    ],
)
def test_weights_leave_only_as_they_came(check, weights, why):
    content = TrainReply(WEIGHTS, 48).to_records()
    content[ARRAYS] = pack_arrays(weights)
    with pytest.raises(EgressError, match=why):
        check(asks(TRAIN), content)


def test_weights_do_not_leave_where_none_came(check):
    message = Message(request(job()), 2, TRAIN)
    with pytest.raises(EgressError, match="weights that were not asked for"):
        check(message, TrainReply(WEIGHTS, 48).to_records())


def with_extra(extra):
    content = TrainReply(WEIGHTS, 48).to_records()
    content[EXTRA] = pack_arrays(extra)
    return content


def test_extra_arrays_leave_in_forms_that_came(check):
    came = {"c": np.zeros(5)}
    assert check(asks(TRAIN, extra=came), with_extra({"c": np.ones(5)})) is None
    assert check(asks(TRAIN, extra=came), with_extra({"w": WEIGHTS["w"]})) is None
    assert check(asks(TRAIN), with_extra({"b": np.ones(2)})) is None
    for wrong in ({"c": np.ones(6)}, {"d": np.ones(5)}, {"c": np.ones(5, np.float32)}):
        with pytest.raises(EgressError, match="not as received"):
            check(asks(TRAIN, extra=came), with_extra(wrong))
    with pytest.raises(EgressError, match="'c' is float64"):
        check(asks(TRAIN), with_extra({"c": np.ones(5)}))


@pytest.mark.parametrize("kind", [FIT, EVALUATE])
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8", "bool", "complex128", "U4"])
def test_only_counts_and_sums_leave_as_summands(check, kind, dtype):
    content = HONEST[kind]()
    content[STATS] = pack_arrays({"overall/x": np.zeros(2, dtype)})
    with pytest.raises(EgressError, match="only counts and sums may leave"):
        check(asks(kind), content)


@pytest.mark.parametrize("name", ["rows", "overall", "overal/x", "xoverall/x", "subgroup/a/x"])
def test_evaluation_sends_only_summands_of_a_scope(check, name):
    content = EvaluateReply(Stats({name: np.ones(2)}), 12).to_records()
    with pytest.raises(EgressError, match=f"'{name}' is no summand of an evaluation"):
        check(asks(EVALUATE), content)
    assert check(asks(FIT), site_reply(stats=Stats({name: np.ones(2)})).to_records()) is None


def stowaway(record, name):
    """The same array, with bytes behind those that its shape needs."""
    array = record[name]
    changed = Array(array.dtype, tuple(array.shape), array.stype, array.data + b"patient-4711")
    return ArrayRecord({**dict(record.items()), name: changed})


@pytest.mark.parametrize(("kind", "record", "name"), [(TRAIN, ARRAYS, "w"), (FIT, STATS, "rows")])
def test_bytes_behind_an_array_may_not_leave(check, kind, record, name):
    content = HONEST[kind]()
    content[record] = stowaway(content[record], name)
    with pytest.raises(EgressError, match=f"'{name}'"):
        check(asks(kind), content)


@pytest.mark.parametrize("refused", Refusal)
def test_fixed_errors_may_leave(tmp_path, refused):
    site = site_from_mapping({"name": "clinic", "data": {"train": "a.csv"}}, "test", tmp_path)
    message = asks(TRAIN)
    error = Error(refused.code, refused.text)
    assert check_reply(message, Message(error, reply_to=message), site) is None
    for wrong in (Error(refused.code, "patient 4711"), Error(17, refused.text)):
        with pytest.raises(EgressError, match="a text of its own may not leave"):
            check_reply(message, Message(wrong, reply_to=message), site)


class State(dict):
    def put(self, name, arrays):
        self[name] = arrays


@pytest.mark.parametrize(
    "form",
    [
        {"dtype": "fp16"},
        {"dtype": "int8"},
        {"dtype": "fp32", "top_k": 0.5},
        {"dtype": "int8", "top_k": 0.3},
    ],
)
def test_encoded_update_leaves_in_the_form_that_the_job_declares(check, form):
    compression = Compression(**form)
    trained = {n: a + 1 for n, a in WEIGHTS.items()}
    update = encode(trained, WEIGHTS, compression, State(), np.random.default_rng(0))
    content = TrainReply(trained, 48).to_compressed(update)
    assert set(content[ARRAYS]) == {"batches"}

    assert check(asks(TRAIN, compression=form), content) is None

    with pytest.raises(EgressError, match="an encoded update that was not asked for"):
        check(asks(TRAIN), content)
    with pytest.raises(EgressError, match="not as the job declares"):
        check(asks(TRAIN, compression={"dtype": "int8", "top_k": 0.9}), content)


def test_encoded_update_that_is_longer_or_not_finite_may_not_leave(check):
    message = asks(TRAIN, compression={"dtype": "fp16"})
    content = TrainReply(WEIGHTS, 48).to_compressed({"values": np.zeros(9, np.float16)})
    with pytest.raises(EgressError, match="not as the job declares"):
        check(message, content)
    content[UPDATE] = pack_arrays({"values": np.full(8, np.nan, np.float16)})
    with pytest.raises(EgressError, match="not finite"):
        check(message, content)
    content[UPDATE] = pack_arrays({"values": np.zeros(8, np.float16)})
    assert check(message, content) is None
    content[ARRAYS] = pack_arrays(WEIGHTS)  # and the weights themselves beside it
    with pytest.raises(EgressError, match="weights that were not asked for"):
        check(message, content)


class Growing:
    """As little of a model of trees as the check needs."""

    outputs = arrays = load = layer_kinds = None

    def most_bytes(self, sent):
        return 100

    def check_reply(self, reply, sent, *, whole=None):
        if reply["0"].tobytes() != b"trees":
            raise ReplyError("the reply holds no tree")


@pytest.fixture
def trees(monkeypatch):
    """A message that sends bytes to a model that grows."""

    class Parts:
        model = Growing()

    monkeypatch.setattr(reply_check, "job_parts", lambda text: Parts)
    monkeypatch.setattr(reply_check, "VariableSizeModel", Growing)
    return lambda: asks(TRAIN, {"0": np.zeros(2, np.uint8)})


def tree_reply(text):
    return TrainReply({"0": np.frombuffer(text, np.uint8)}, 48).to_records()


def test_trees_leave_when_the_model_has_read_them_to_the_end(check, trees):
    assert check(trees(), tree_reply(b"trees")) is None
    with pytest.raises(EgressError, match="the reply holds no tree"):
        check(trees(), tree_reply(b"patient"))
    with pytest.raises(EgressError, match="oversized"):
        check(trees(), tree_reply(b"x" * 2000))


def test_bytes_of_a_model_that_does_not_grow_leave_as_they_came(check, trees, monkeypatch):
    monkeypatch.setattr(reply_check, "VariableSizeModel", State)
    assert check(trees(), tree_reply(b"ab")) is None
    with pytest.raises(EgressError, match=r"uint8\[5\], not as received"):
        check(trees(), tree_reply(b"trees"))


def masked_message():
    asked = MaskRequest(session="s", num_sites=3, num_words=3)
    return Message(RecordDict({SECAGG: asked.to_record()}), 2, MASKED_SUM)


def masked_reply(vector):
    return RecordDict({SECAGG: MaskReply().to_record(), MASKED: vector})


def test_masked_vector_is_looked_at_to_its_last_byte(check):
    vector = pack_arrays({VECTOR: np.arange(3, dtype=np.uint64)})
    assert check(masked_message(), masked_reply(vector)) is None
    with pytest.raises(EgressError, match=f"'{VECTOR}'"):
        check(masked_message(), masked_reply(stowaway(vector, VECTOR)))


@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
def test_plain_result_may_not_leave_where_masks_were_asked_for(check, kind):
    with pytest.raises(EgressError, match="not what may leave in a masked sum"):
        check(asks(kind, secagg=True), HONEST[kind]())
