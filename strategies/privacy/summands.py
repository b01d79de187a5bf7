"""A site's result as summands for a masked sum, and the sums as what the round loop expects.

A strategy gets one reply per site that is in the sum, all with the sites' mean: whatever it
averages, it then averages exactly that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import Message, MetricRecord

from fl_common.errors import ReplyError
from strategies.privacy.fixed_point import COUNT, SUM, WEIGHT, Layout, layout_of
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
from strategies.wire.records import pack_arrays
from tasks.contract import Arrays
from tasks.stats import Stats

WEIGHT_KEY, STEPS_KEY = f"{COUNT}:weight", f"{COUNT}:{NUM_STEPS}"
EXAMPLES_KEY, LOSS_KEY = f"{COUNT}:{NUM_EXAMPLES}", f"{SUM}:{LOSS}"


def train_summands(reply: TrainReply, extra: Arrays, weighting: str) -> Arrays:
    """Multiply a site's weights (and extra arrays) by its weight in the mean.

    Parameters
    ----------
    weighting : {"examples", "uniform"}
    """
    weight = 1 if weighting == "uniform" else reply.num_examples
    summands: Arrays = {
        WEIGHT_KEY: np.array(weight),
        EXAMPLES_KEY: np.array(reply.num_examples),
        STEPS_KEY: np.array(reply.num_steps),
        LOSS_KEY: np.array(reply.num_examples * (reply.loss or 0.0)),
    }
    for record, arrays in ((ARRAYS, reply.arrays), (EXTRA, extra)):
        for name, array in arrays.items():
            product = np.multiply(array, weight, dtype=np.int64 if _is_whole(array) else np.float64)
            summands[_weight_key(record, name, array)] = product
    return summands


def train_layout(sent: Arrays, extra: Arrays) -> Layout:
    """Return the layout of ``train_summands``, which the server knows beforehand."""
    return layout_of(train_summands(TrainReply(sent, 1), extra, "uniform"))


def evaluate_summands(reply: EvaluateReply, empty_stats: Stats) -> Arrays:
    """Bring a site's metric summands into the task's own layout; what is absent counts zero.

    Raises
    ------
    ReplyError
        If the site would send something that the task does not list.
    """
    if unknown := reply.stats.keys() - empty_stats.keys():
        raise ReplyError(f"summands {sorted(unknown)} are not in the task's layout")
    summands: Arrays = {EXAMPLES_KEY: np.array(reply.num_examples)}
    for name, array in empty_stats.items():
        summands[_stats_key(name, array)] = reply.stats.get(name, array)
    return summands


def evaluate_layout(empty_stats: Stats) -> Layout:
    """Return the layout of ``evaluate_summands``."""
    return layout_of(evaluate_summands(EvaluateReply(Stats(), 0), empty_stats))


def mean_replies(sums: Arrays, sent: Arrays, replies: list[Message], extra: Arrays) -> None:
    """Turn the messages that brought masked vectors into replies that hold their mean.

    Parameters
    ----------
    sums : dict of str to array
        The unmasked sums.
    sent, extra : dict of str to array
        Names and dtypes of the weights and extra arrays.

    Raises
    ------
    ReplyError
        If the sums make no sense, because a site did not follow the protocol.
    """
    weight, total = int(sums[WEIGHT_KEY]), int(sums[EXAMPLES_KEY])
    if not 0 < weight < 2**53 or not len(replies) <= total < 2**53:
        raise ReplyError("the unmasked sum is not one; a site did not follow the protocol")
    records = {ARRAYS: pack_arrays(_means(sums, sent, ARRAYS, weight))}
    if extra:
        records[EXTRA] = pack_arrays(_means(sums, extra, EXTRA, weight))
    shares = np.full(len(replies), total // len(replies))
    shares[: total % len(replies)] += 1
    steps = round(int(sums[STEPS_KEY]) / len(replies))
    loss = float(sums[LOSS_KEY]) / total
    for reply, share in zip(replies, shares, strict=True):
        for name in list(reply.content):
            del reply.content[name]
        reply.content[METRICS] = MetricRecord(
            {NUM_EXAMPLES: int(share), NUM_STEPS: steps, LOSS: loss}
        )
        for name, record in records.items():
            reply.content[name] = record


def pooled_stats(sums: Arrays, empty_stats: Stats) -> Stats:
    """Return the pooled metric summands; a subgroup that no site sent is left out."""
    pooled = {name: sums[_stats_key(name, array)] for name, array in empty_stats.items()}
    empty = {_subgroup(name) for name in pooled} - {
        _subgroup(name) for name, array in pooled.items() if array.any()
    }
    return Stats({n: a for n, a in pooled.items() if not _subgroup(n) or _subgroup(n) not in empty})


def _means(sums: Arrays, like: Mapping[str, np.ndarray], record: str, weight: int) -> Arrays:
    means: Arrays = {}
    for name, array in like.items():
        mean = sums[_weight_key(record, name, array)] / weight
        means[name] = np.asarray(np.rint(mean) if _is_whole(array) else mean).astype(array.dtype)
    return means


def _weight_key(record: str, name: str, array: np.ndarray) -> str:
    return f"{COUNT if _is_whole(array) else WEIGHT}:{record}/{name}"


def _stats_key(name: str, array: np.ndarray) -> str:
    return f"{COUNT if _is_whole(array) else SUM}:stats/{name}"


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iub"


def _subgroup(name: str) -> str:
    scope, _, rest = name.partition("/")
    return rest.partition("/")[0] if scope == "subgroups" else ""
