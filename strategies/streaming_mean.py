"""Fold training replies one by one into means: what every streaming strategy starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, MetricRecord

from fl_common.errors import ReplyError
from strategies.accumulator import WeightedMean
from strategies.wire.messages import ARRAYS, EXTRA, LOSS, METRICS, NUM_EXAMPLES
from strategies.wire.records import find_record, record_of, unpack_arrays
from tasks.contract import Arrays


@dataclass(frozen=True)
class RoundMean:
    """What the replies of one round add up to.

    Parameters
    ----------
    mean, extra : dict of str to array
        Weighted means of the models and of the extra arrays (empty if none were sent).
    weight : float
        Sum of the weights.
    num_replies, num_examples : int
    loss : float
        Example-weighted mean training loss.
    """

    mean: Arrays
    extra: Arrays
    weight: float
    num_replies: int
    num_examples: int
    loss: float

    def metrics(self) -> MetricRecord:
        """Return what the round loop records."""
        return MetricRecord({LOSS: self.loss, NUM_EXAMPLES: self.num_examples})


def number(metrics: MetricRecord, key: str, default: float | None = None) -> float:
    """Return a scalar of a reply.

    Raises
    ------
    ReplyError
        If it is absent and has no default, or is a list.
    """
    value = metrics.get(key, default)
    if not isinstance(value, int | float):
        raise ReplyError(f"reply lacks the number '{key}'")
    return float(value)


def fold_replies(
    replies: Iterable[Message], weigh: Callable[[MetricRecord], float]
) -> RoundMean | None:
    """Fold replies as they arrive; memory of one model and one set of extra arrays.

    Parameters
    ----------
    weigh : callable
        A reply's metrics to its weight; a weight of 0 leaves the reply out.

    Returns
    -------
    RoundMean or None
        None when no reply carried weight.
    """
    mean, extra = WeightedMean(), WeightedMean()
    loss, examples = 0.0, 0.0
    for reply in replies:
        if reply.has_error():
            continue
        metrics = record_of(reply.content, METRICS, MetricRecord)
        weight = weigh(metrics)
        if weight == 0:
            continue
        model = unpack_arrays(record_of(reply.content, ARRAYS, ArrayRecord), copy=False)
        mean.add(model, weight)
        if (record := find_record(reply.content, EXTRA, ArrayRecord)) is not None:
            extra.add(unpack_arrays(record, copy=False), weight)
        count = number(metrics, NUM_EXAMPLES, weight)
        loss += count * number(metrics, LOSS, 0.0)
        examples += count
        del reply, model, record  # or two replies are in memory while the next one arrives
    arrays = mean.result()
    if arrays is None:
        return None
    return RoundMean(
        arrays, extra.result() or {}, mean.weight, mean.num_replies, int(examples), loss / examples
    )
