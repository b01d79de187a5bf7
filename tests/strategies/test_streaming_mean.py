"""Replies folded one by one: numpy's weighted mean, with one model in memory."""

import weakref

import numpy as np
import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_common.errors import ReplyError
from strategies.streaming_mean import fold_replies, number
from strategies.wire.messages import ARRAYS, EXTRA, LOSS, METRICS, NUM_EXAMPLES, TrainReply
from strategies.wire.records import pack_arrays


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def reply(arrays, num_examples=1, loss=0.0, extra=None):
    content = TrainReply(arrays, num_examples, 1, loss).to_records()
    if extra is not None:
        content[EXTRA] = pack_arrays(extra)
    return Message(content, reply_to=Message(RecordDict(), 2, "train"))


def failed():
    return Message(Error(1, "gone"), reply_to=Message(RecordDict(), 2, "train"))


def by_examples(metrics):
    return number(metrics, NUM_EXAMPLES)


def models(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "w": rng.normal(size=(3, 4)).astype(np.float32),
            "b": rng.normal(size=()).astype(np.float64),
            "batches": rng.integers(0, 100, size=2),
        }
        for _ in range(count)
    ]


def test_fold_equals_numpys_weighted_mean():
    made, extras, weights = models(5), models(5, seed=1), [7, 1, 30, 2, 11]
    losses = [0.5, 1.5, 0.25, 2.0, 0.0]
    replies = map(reply, made, weights, losses, extras)

    fold = fold_replies(replies, by_examples)

    for mean, parts in ((fold.mean, made), (fold.extra, extras)):
        assert mean.keys() == {"w", "b", "batches"}
        for name, array in mean.items():
            expected = np.average([part[name] for part in parts], axis=0, weights=weights)
            if name == "batches":
                expected = np.rint(expected)
            assert array.dtype == parts[0][name].dtype
            np.testing.assert_allclose(array, expected, rtol=1e-6)
    assert (fold.num_replies, fold.weight, fold.num_examples) == (5, 51.0, 51)
    assert fold.loss == pytest.approx(np.average(losses, weights=weights))
    assert dict(fold.metrics()) == {LOSS: fold.loss, NUM_EXAMPLES: 51}


def test_equal_weights_give_the_plain_mean_and_keep_the_loss_by_examples():
    made = models(3)
    replies = map(reply, made, [1, 1, 98], [1.0, 1.0, 0.5])

    fold = fold_replies(replies, lambda metrics: 1.0)

    np.testing.assert_allclose(fold.mean["w"], np.mean([m["w"] for m in made], 0), rtol=1e-6)
    assert (fold.weight, fold.num_examples, fold.loss) == (3.0, 100, pytest.approx(0.51))
    assert fold.extra == {}


def test_one_reply_is_its_own_mean_bit_for_bit():
    (made,) = models(1)
    fold = fold_replies([reply(made, 977)], by_examples)
    for name, array in made.items():
        np.testing.assert_array_equal(fold.mean[name], array)


def test_failed_and_weightless_replies_are_left_out():
    first, second, third = models(3)
    replies = [failed(), reply(first, 0, loss=9.0), reply(second, 4), failed(), reply(third, 4)]

    fold = fold_replies(replies, by_examples)

    assert (fold.num_replies, fold.num_examples, fold.loss) == (2, 8, 0.0)
    np.testing.assert_allclose(fold.mean["w"], (second["w"] + third["w"]) / 2, rtol=1e-6)


@pytest.mark.parametrize("replies", [[], ["failed"], ["failed", "weightless"]])
def test_fold_is_none_when_nothing_carries_weight(replies):
    made = {"failed": failed, "weightless": lambda: reply({"w": np.ones(2)}, 0)}
    assert fold_replies((made[kind]() for kind in replies), by_examples) is None


def test_memory_is_of_one_reply_when_the_next_is_asked_for():
    alive, most = [], []

    def stream():
        for made in models(6):
            most.append(sum(seen() is not None for seen in alive))
            sent = reply(made, 3, extra={"c": np.ones(2)})
            alive.append(weakref.ref(sent.content[ARRAYS]))
            yield sent
            del sent

    fold_replies(stream(), by_examples)

    assert len(most) == 6
    assert set(most) == {0}


def test_shapes_that_differ_are_refused():
    with pytest.raises(ReplyError, match="array 'w' is"):
        fold_replies([reply({"w": np.ones(2)}), reply({"w": np.ones(3)})], by_examples)


@pytest.mark.parametrize("record", [ARRAYS, METRICS])
def test_reply_that_lacks_a_record_is_refused(record):
    sent = reply({"w": np.ones(2)})
    del sent.content[record]
    with pytest.raises(ReplyError, match=f"reply lacks '{record}'"):
        fold_replies([sent], by_examples)


def test_number_reads_a_scalar_or_its_default():
    metrics = MetricRecord({"n": 3, "many": [1.0, 2.0]})
    assert number(metrics, "n") == 3.0
    assert isinstance(number(metrics, "n"), float)
    assert number(metrics, "absent", 0.5) == 0.5
    for key in ("absent", "many"):
        with pytest.raises(ReplyError, match=f"reply lacks the number '{key}'"):
            number(metrics, key)
