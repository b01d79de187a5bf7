"""Summands of a masked sum: both layouts round trip, and the mean is numpy's."""

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl_common.errors import ReplyError
from strategies.privacy.fixed_point import from_words, layout_of, num_words, to_words
from strategies.privacy.summands import (
    EXAMPLES_KEY,
    LOSS_KEY,
    STEPS_KEY,
    WEIGHT_KEY,
    evaluate_layout,
    evaluate_summands,
    mean_replies,
    pooled_stats,
    train_layout,
    train_summands,
)
from strategies.wire.messages import (
    ARRAYS,
    EXTRA,
    LOSS,
    METRICS,
    NUM_EXAMPLES,
    NUM_STEPS,
    EvaluateReply,
    TrainReply,
)
from strategies.wire.records import pack_arrays, unpack_arrays
from tasks.stats import Stats

EXAMPLES, STEPS, LOSSES = [7, 40, 13], [1, 5, 3], [0.5, 0.25, 2.0]


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


def model(seed):
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(3, 2)).astype(np.float32),
        "b": rng.normal(size=()),
        "batches": rng.integers(0, 50, size=2),
    }


def variate(seed):
    return {"c": model(seed)["w"] - 1}


def site_summands(weighting):
    return [
        train_summands(
            TrainReply(model(n), EXAMPLES[n], STEPS[n], LOSSES[n]), variate(n + 9), weighting
        )
        for n in range(3)
    ]


def summed(sites, layout):
    """What the server reads after the masks are off."""
    return from_words(sum(to_words(site, len(sites)) for site in sites), layout)


def messages(count):
    return [Message(RecordDict(), reply_to=Message(RecordDict(), n, "train")) for n in range(count)]


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_train_layout_is_known_before_any_site_answers(weighting):
    layout = train_layout(model(99), variate(98))
    assert layout == layout_of(site_summands(weighting)[0])
    assert layout == {
        "count:arrays/batches": (2,),
        "count:num-examples": (),
        "count:num-steps": (),
        "count:weight": (),
        "sum:train-loss": (),
        "weight:arrays/b": (),
        "weight:arrays/w": (3, 2),
        "weight:extra/c": (3, 2),
    }
    assert num_words(layout) == 2 + 3 + 3 + 1 + 6 + 6


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_train_summands_survive_the_words(weighting):
    sites = site_summands(weighting)
    sums = summed(sites, train_layout(model(0), variate(0)))
    assert sums.keys() == sites[0].keys()
    for key, value in sums.items():
        expected = np.sum([site[key] for site in sites], axis=0)
        if key.startswith("count:"):
            np.testing.assert_array_equal(value, expected)
        else:
            np.testing.assert_allclose(value, expected, rtol=0, atol=3 * 2.0**-25)


def test_summands_are_the_weights_times_the_examples():
    site = site_summands("examples")[1]
    assert (site[WEIGHT_KEY], site[EXAMPLES_KEY], site[STEPS_KEY]) == (40, 40, 5)
    assert site[LOSS_KEY] == 40 * 0.25
    np.testing.assert_array_equal(site["weight:arrays/w"], model(1)["w"].astype(np.float64) * 40)
    np.testing.assert_array_equal(site["count:arrays/batches"], model(1)["batches"] * 40)


def test_site_without_a_loss_counts_zero_loss():
    assert train_summands(TrainReply(model(0), 7, 1, None), {}, "examples")[LOSS_KEY] == 0.0


@pytest.mark.parametrize(("weighting", "weights"), [("examples", EXAMPLES), ("uniform", None)])
def test_mean_of_replies_equals_numpys(weighting, weights):
    sums = summed(site_summands(weighting), train_layout(model(0), variate(0)))
    replies = messages(3)

    mean_replies(sums, model(0), replies, variate(0))

    for record, made in (
        (ARRAYS, [model(n) for n in range(3)]),
        (EXTRA, [variate(n + 9) for n in range(3)]),
    ):
        for reply in replies:
            means = unpack_arrays(reply.content[record])
            assert means.keys() == made[0].keys()
            for name, mean in means.items():
                expected = np.average([part[name] for part in made], axis=0, weights=weights)
                assert mean.dtype == made[0][name].dtype
                if name == "batches":
                    np.testing.assert_array_equal(mean, np.rint(expected))
                else:
                    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=2.0**-24)
    numbers = [dict(reply.content[METRICS]) for reply in replies]
    assert [n[NUM_EXAMPLES] for n in numbers] == [20, 20, 20]
    assert {n[NUM_STEPS] for n in numbers} == {3}
    assert numbers[0][LOSS] == pytest.approx(np.average(LOSSES, weights=EXAMPLES))


def test_shares_of_the_examples_add_up_when_they_do_not_divide():
    sums = summed(site_summands("examples")[:2], train_layout(model(0), variate(0)))
    replies = messages(2)
    mean_replies(sums, model(0), replies, {})
    assert [r.content[METRICS][NUM_EXAMPLES] for r in replies] == [24, 23]  # of 47


def test_replies_lose_what_they_held_and_gain_extra_only_where_it_was_sent():
    sums = summed(site_summands("uniform"), train_layout(model(0), variate(0)))
    replies = messages(3)
    replies[0].content["masked"] = pack_arrays({"vector": np.zeros(3, np.uint64)})
    mean_replies(sums, model(0), replies, {})
    assert [set(reply.content) for reply in replies] == [{ARRAYS, METRICS}] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (WEIGHT_KEY, 0),
        (WEIGHT_KEY, -5),
        (WEIGHT_KEY, 2**53),
        (EXAMPLES_KEY, 2),  # fewer than sites
        (EXAMPLES_KEY, 2**53),
    ],
)
def test_sums_that_make_no_sense_are_refused(key, value):
    sums = summed(site_summands("examples"), train_layout(model(0), variate(0)))
    with pytest.raises(ReplyError, match="did not follow the protocol"):
        mean_replies({**sums, key: np.array(value)}, model(0), messages(3), {})


EMPTY = Stats(
    {
        "overall/confusion": np.zeros((2, 2), np.int64),
        "overall/squares": np.zeros(()),
        "subgroups/women/confusion": np.zeros((2, 2), np.int64),
        "subgroups/women/squares": np.zeros(()),
        "subgroups/men/confusion": np.zeros((2, 2), np.int64),
        "subgroups/men/squares": np.zeros(()),
    }
)


def site_stats(seed, *groups):
    rng = np.random.default_rng(seed)
    names = ["overall", *(f"subgroups/{group}" for group in groups)]
    return Stats(
        {f"{n}/confusion": rng.integers(1, 9, (2, 2)) for n in names}
        | {f"{n}/squares": rng.random() for n in names}
    )


def test_evaluate_layout_is_known_before_any_site_answers():
    layout = evaluate_layout(EMPTY)
    assert layout == layout_of(evaluate_summands(EvaluateReply(site_stats(0), 4), EMPTY))
    assert set(layout) == {
        EXAMPLES_KEY,
        *(f"count:stats/{name}" for name in EMPTY if name.endswith("confusion")),
        *(f"sum:stats/{name}" for name in EMPTY if name.endswith("squares")),
    }
    assert num_words(layout) == 1 + 3 * 4 + 3 * 3


def test_evaluation_round_trips_to_the_merged_summands():
    sites = [site_stats(0), site_stats(1, "women"), site_stats(2, "women")]
    sums = summed(
        [evaluate_summands(EvaluateReply(stats, 5 + n), EMPTY) for n, stats in enumerate(sites)],
        evaluate_layout(EMPTY),
    )

    pooled = pooled_stats(sums, EMPTY)

    plain = sites[0].merge(sites[1]).merge(sites[2])
    assert sums[EXAMPLES_KEY] == 18
    assert pooled.keys() == plain.keys()  # nobody sent men
    for name, array in plain.items():
        assert pooled[name].dtype == array.dtype
        np.testing.assert_allclose(pooled[name], array, rtol=1e-14)


def test_all_rows_stay_even_where_they_are_empty():
    sums = summed([evaluate_summands(EvaluateReply(Stats(), 0), EMPTY)], evaluate_layout(EMPTY))
    assert set(pooled_stats(sums, EMPTY)) == {"overall/confusion", "overall/squares"}


def test_summand_that_the_task_does_not_list_is_refused():
    stats = site_stats(0, "children")
    with pytest.raises(ReplyError, match=r"\['subgroups/children/confusion', .*not in the task's"):
        evaluate_summands(EvaluateReply(stats, 4), EMPTY)
