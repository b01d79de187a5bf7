"""What a reply must look like, by the kind of weights that a run has."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict

from fl_common.errors import ReplyError
from fl_server.config.run_config import SitesConfig
from fl_server.rounds.reply_validation import (
    CompressedReplies,
    FixedShapeReplies,
    TrainCheck,
    VariableSizeReplies,
    cast_like,
    check_evaluate,
    make_validator,
)
from strategies.fedavg import FedAvg
from strategies.wire.compression import Compression
from strategies.wire.messages import ARRAYS, EPSILON, EXTRA, LOSS, METRICS, NUM_EXAMPLES, STATS
from strategies.wire.records import pack_arrays
from tasks.stats import Stats
from tests.fl_server.rounds.fake_grid import FakeGrid, site

SENT = {"w": np.zeros((2, 3), np.float32), "steps": np.array(3)}


@pytest.fixture
def reply():
    """Return a function: a training reply with these weights and metrics."""
    FakeGrid({})  # gives messages an identity

    def make(arrays=None, extra=None, **metrics):
        values = {NUM_EXAMPLES: 5, LOSS: 0.5, **metrics}
        content = RecordDict(
            {
                ARRAYS: pack_arrays(SENT if arrays is None else arrays),
                METRICS: MetricRecord({k: v for k, v in values.items() if v is not None}),
            }
        )
        if extra is not None:
            content[EXTRA] = pack_arrays(extra)
        return Message(content, 1, "train")

    return make


def check(validator=None, extra=None, **options):
    return TrainCheck(validator or FixedShapeReplies(), SENT, extra or {}, **options)


def test_sound_reply_says_its_count_and_loss(reply):
    checked = check()(site("a", 2), reply())
    assert (checked.num_examples, checked.loss, checked.epsilon) == (5, 0.5, None)


def test_private_training_says_what_it_spent_and_no_loss(reply):
    private = check(is_private=True)
    checked = private(site("a", 2), reply(**{EPSILON: 1.5, LOSS: None}))
    assert (checked.loss, checked.epsilon) == (None, 1.5)
    with pytest.raises(ReplyError, match="must be a number from 0"):
        private(site("a", 2), reply(**{EPSILON: -1.0}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arrays": {"w": SENT["w"]}}, r"weights \['steps'\] are missing"),
        ({"arrays": {**SENT, "w": np.zeros((3, 2), np.float32)}}, "expected float32"),
        ({"arrays": {**SENT, "w": np.full((2, 3), np.inf, np.float32)}}, "'w' .*not finite"),
        ({"extra": {"c": np.zeros(1)}}, "extra arrays"),
        ({NUM_EXAMPLES: 11}, "claims 11 examples, the site declared 10"),
        ({NUM_EXAMPLES: 1.5}, "must be a count"),
        ({LOSS: float("nan")}, "training loss is nan"),
        ({"num-steps": -1}, "must be a count"),
    ],
)
def test_reply_that_is_not_as_asked_is_named(reply, changes, says):
    with pytest.raises(ReplyError, match=says):
        check()(site("a", 2), reply(**changes))


def test_reply_without_weights_or_metrics_is_refused(reply):
    for record in (ARRAYS, METRICS):
        bare = reply()
        del bare.content[record]
        with pytest.raises(ReplyError, match="lacks weights or metrics"):
            check()(site("a", 2), bare)


def test_update_norm_is_bounded(reply):
    far = {**SENT, "w": np.full((2, 3), 2.0, np.float32)}
    check(FixedShapeReplies(5.0))(site("a", 2), reply(far))
    with pytest.raises(ReplyError, match=r"above sites\.max_update_norm"):
        check(FixedShapeReplies(4.8))(site("a", 2), reply(far))


def test_compressed_update_becomes_weights(reply):
    from strategies.wire.compression import encode

    compression = Compression(dtype="fp16")
    trained = {"w": SENT["w"] + 0.25, "steps": SENT["steps"]}
    update = encode(trained, SENT, compression, {}, np.random.default_rng(0))
    message = reply({"steps": SENT["steps"]})
    message.content["update"] = pack_arrays(update)
    validator = CompressedReplies(compression, FixedShapeReplies())
    check(validator)(site("a", 2), message)
    assert set(message.content[ARRAYS]) == {"w", "steps"}
    assert "update" not in message.content

    plain = reply()
    with pytest.raises(ReplyError, match="update"):
        check(validator)(site("a", 2), plain)


class Trees:
    """A model that grows by a byte a round."""

    def arrays(self):
        return {"trees": np.zeros(0, np.uint8)}

    def load(self, arrays):
        if not arrays["trees"].size:
            raise ReplyError("no trees")

    def layer_kinds(self):
        return {}

    def most_bytes(self, sent):
        return 10

    def check_reply(self, reply, sent, *, whole=None):
        if whole and len(reply["trees"]) <= len(sent["trees"]):
            raise ReplyError("does not continue")


def test_model_of_variable_size_judges_its_replies(reply):
    sent = {"trees": np.zeros(2, np.uint8)}
    validator = VariableSizeReplies(Trees(), is_whole=True)
    whole = TrainCheck(validator, sent, {})
    assert whole(site("a", 2), reply({"trees": np.zeros(3, np.uint8)})).num_examples == 5
    with pytest.raises(ReplyError, match="does not continue"):
        whole(site("a", 2), reply({"trees": np.zeros(2, np.uint8)}))
    with pytest.raises(ReplyError, match="oversized"):
        whole(site("a", 2), reply({"trees": np.zeros(2000, np.uint8)}))
    with pytest.raises(ReplyError, match="no trees"):
        validator.cast({"trees": np.zeros(0, np.uint8)}, sent)
    longer = {"trees": np.zeros(5, np.uint8)}
    assert validator.cast(longer, sent) is longer


@pytest.mark.parametrize(
    ("model", "kind"), [(None, CompressedReplies), (Trees(), VariableSizeReplies)]
)
def test_model_chooses_the_validator(model, kind):
    config = SimpleNamespace(sites=SitesConfig(max_update_norm=3.0), compression=Compression())
    validator = make_validator(config, FedAvg(), model)
    assert type(validator) is kind
    if kind is CompressedReplies:
        assert validator.decoded.max_update_norm == 3.0


def test_aggregated_model_keeps_the_form_that_sites_know():
    sent = {"w": np.zeros(2, np.float32), "bn.running_var": np.ones(2, np.float32)}
    new = cast_like({"bn.running_var": np.array([-1.0, 2.0]), "w": np.ones(2)}, sent)
    assert list(new) == list(sent)
    assert {array.dtype for array in new.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(new["bn.running_var"], [0.0, 2.0])
    with pytest.raises(ReplyError, match=r"changed the weights \['w'\] \(mine.py:5\)"):
        cast_like({"bn.running_var": np.ones(2)}, sent, " (mine.py:5)")


EMPTY = Stats(
    {"overall/hits": np.zeros(2, np.int64), "overall/loss": np.zeros(()), "other": np.zeros(1)}
)


@pytest.mark.parametrize(
    ("stats", "rows", "says"),
    [
        ({}, 4, None),
        ({"other": np.zeros(1)}, 4, None),
        ({}, 5, "reply covers 5 rows"),
        ({"overall/hits": np.array([5, 0])}, 4, "outside 0..4"),
        ({"overall/hits": np.array([-1, 0])}, 4, "outside"),
        ({"overall/hits": np.zeros(3, np.int64)}, 4, "expected int64"),
        ({"overall/loss": np.array(np.nan)}, 4, "not finite"),
        ({"rows": np.zeros(4)}, 4, "unknown summand 'rows'"),
    ],
)
def test_evaluation_may_hold_what_the_task_lists(stats, rows, says):
    sound = {"overall/hits": np.array([1, 3]), "overall/loss": np.array(2.5)}
    content = RecordDict(
        {STATS: pack_arrays({**sound, **stats}), METRICS: MetricRecord({NUM_EXAMPLES: rows})}
    )
    FakeGrid({})
    message = Message(content, 1, "evaluate")
    if says is None:
        assert check_evaluate(message, 4, EMPTY).num_examples == 4
    else:
        with pytest.raises(ReplyError, match=says):
            check_evaluate(message, 4, EMPTY)


def test_rows_with_several_objects_may_count_more():
    stats = {"overall/hits": np.array([9, 0]), "overall/loss": np.array(0.0)}
    content = RecordDict({STATS: pack_arrays(stats), METRICS: MetricRecord({NUM_EXAMPLES: 4})})
    FakeGrid({})
    check_evaluate(Message(content, 1, "evaluate"), 4, EMPTY, counts_per_row=3)
