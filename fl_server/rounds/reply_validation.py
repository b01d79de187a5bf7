"""What a site's reply must look like before it may touch the sum.

Sites are not trusted to be honest or healthy: a reply with other shapes, values that are not
finite, too large an update or more examples than the site declared is refused, and named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import Strategy

from fl_common.errors import ReplyError
from fl_server.config.run_config import RunConfig
from fl_server.rounds.sites import Site
from strategies.tree_replies import check_tree_reply, replies_whole
from strategies.wire.compression import (
    Compression,
    applies,
    decode,
    encoded_form,
    encoded_names,
)
from strategies.wire.messages import (
    ARRAYS,
    EPSILON,
    EXTRA,
    LOSS,
    METRICS,
    NUM_EXAMPLES,
    NUM_STEPS,
    UPDATE,
    EvaluateReply,
)
from strategies.wire.records import find_record, pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays, Model
from tasks.scores import OVERALL
from tasks.stats import Stats
from tasks.trees.variable_size import VariableSizeModel

HEADER_BYTES = 1024
"""Largest ``.npy`` header we accept beside the array's own bytes."""


class ReplyValidator(Protocol):
    """What the weights of a run must look like, in a site's reply and in the aggregated model."""

    def check(self, reply: Message, sent: Arrays) -> None:
        """Check the weights of a training reply to ``sent``; leave them decoded in it.

        Raises
        ------
        ReplyError
            Saying what is wrong with the reply.
        """

    def cast(self, new: Arrays, sent: Arrays, place: str = "") -> Arrays:
        """Return the aggregated model as the sites know it.

        Parameters
        ----------
        place : str
            Where the rule that made it is defined.

        Raises
        ------
        ReplyError
            If the sites could not use it.
        """


@dataclass(frozen=True)
class FixedShapeReplies:
    """Weights in the names, shapes and dtypes that were sent, all finite.

    Parameters
    ----------
    max_update_norm : float or None
        Largest l2 norm of a reply's difference from what was sent.
    """

    max_update_norm: float | None = None

    def check(self, reply: Message, sent: Arrays) -> None:
        """Check the weights of a training reply.

        Raises
        ------
        ReplyError
            Naming the weight.
        """
        record = record_of(reply.content, ARRAYS, ArrayRecord)
        _check_declared(record, sent)
        squared, bound = 0.0, self.max_update_norm
        for name, array in unpack_arrays(record, copy=False).items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ReplyError(f"weight '{name}' holds a value that is not finite")
            if bound is not None:
                squared += float(np.sum(np.square(array.astype(np.float64) - sent[name])))
        if bound is not None and math.sqrt(squared) > bound:
            raise ReplyError(
                f"update has l2 norm {math.sqrt(squared):.4g}, above sites.max_update_norm"
            )

    def cast(self, new: Arrays, sent: Arrays, place: str = "") -> Arrays:
        """Return the aggregated model; see ``cast_like``."""
        return cast_like(new, sent, place)


@dataclass(frozen=True)
class CompressedReplies:
    """Updates in the encoding that was asked for; once decoded, weights like any other."""

    compression: Compression
    decoded: FixedShapeReplies

    def check(self, reply: Message, sent: Arrays) -> None:
        """Put the weights in place of a compressed update, and check them.

        Raises
        ------
        ReplyError
            If the update is not in the form that was asked for, or its weights are not.
        """
        self._decode(reply, sent)
        self.decoded.check(reply, sent)

    def cast(self, new: Arrays, sent: Arrays, place: str = "") -> Arrays:
        """Return the aggregated model; see ``cast_like``."""
        return cast_like(new, sent, place)

    def _decode(self, reply: Message, sent: Arrays) -> None:
        if not applies(sent, self.compression):
            return
        update = record_of(reply.content, UPDATE, ArrayRecord)
        whole = record_of(reply.content, ARRAYS, ArrayRecord)
        forms = encoded_form(sent, self.compression)
        _check_declared(update, {n: np.empty(s, d) for n, (s, d) in forms.items()}, "update's part")
        _check_declared(whole, {n: a for n, a in sent.items() if n not in encoded_names(sent)})
        weights = decode(unpack_arrays(update, copy=False), sent, self.compression)
        reply.content[ARRAYS] = pack_arrays(weights | unpack_arrays(whole, copy=False))
        del reply.content[UPDATE]


@dataclass(frozen=True)
class VariableSizeReplies:
    """A model that grows and judges its replies itself.

    Parameters
    ----------
    is_whole : bool
        Whether a reply continues what was sent, or holds what is new only.
    """

    model: VariableSizeModel
    is_whole: bool

    def check(self, reply: Message, sent: Arrays) -> None:
        """Check the trees of a training reply.

        Raises
        ------
        ReplyError
            Saying what is wrong with them.
        """
        record = record_of(reply.content, ARRAYS, ArrayRecord)
        check_tree_reply(record, sent, self.model, whole=self.is_whole)

    def cast(self, new: Arrays, sent: Arrays, place: str = "") -> Arrays:
        """Return the joined trees, which must be whole."""
        self.model.load(new)
        return new


def make_validator(config: RunConfig, strategy: Strategy, model: Model | None) -> ReplyValidator:
    """Return the validator of a run's training replies: by its model first, then its encoding."""
    if isinstance(model, VariableSizeModel):
        return VariableSizeReplies(model, replies_whole(strategy))
    whole = FixedShapeReplies(config.sites.max_update_norm)
    return CompressedReplies(config.compression, whole)


@dataclass(frozen=True)
class CheckedReply:
    """What a reply that passed its checks says of itself.

    Parameters
    ----------
    loss : float or None
        Training loss, where the site tells it.
    epsilon : float or None
        What the site's own private training has spent so far.
    """

    num_examples: int
    loss: float | None = None
    epsilon: float | None = None


class TrainCheck:
    """Check one training reply after the other against the model that was sent.

    Parameters
    ----------
    extra : dict of str to array
        The names, shapes and dtypes of the arrays that the strategy expects beside the weights.
    is_private : bool
        Whether the sites train privately: then they send no loss.
    """

    def __init__(
        self, validator: ReplyValidator, sent: Arrays, extra: Arrays, *, is_private: bool = False
    ) -> None:
        self._validator = validator
        self._sent = sent
        self._extra = extra
        self._is_private = is_private

    def __call__(self, site: Site, reply: Message) -> CheckedReply:
        """Return what the reply says of itself.

        Raises
        ------
        ReplyError
            Saying what is wrong with the reply.
        """
        if find_record(reply.content, ARRAYS, ArrayRecord) is None:
            raise ReplyError("reply lacks weights or metrics")
        count, loss = _checked_metrics(reply, site.num_train)
        check_extra(reply, self._extra)
        self._validator.check(reply, self._sent)
        return CheckedReply(count, None if self._is_private else loss, epsilon_in(reply))


def _checked_metrics(reply: Message, num_train: int) -> tuple[int, float]:
    """Return a training reply's example count and loss."""
    metrics = find_record(reply.content, METRICS, MetricRecord)
    if metrics is None:
        raise ReplyError("reply lacks weights or metrics")
    count = metrics.get(NUM_EXAMPLES)
    if not isinstance(count, int) or isinstance(count, bool):
        raise ReplyError(f"'{NUM_EXAMPLES}' must be a count, got {count!r}")
    if not 0 < count <= num_train:
        raise ReplyError(f"reply claims {count} examples, the site declared {num_train}")
    loss = metrics.get(LOSS, 0.0)
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        raise ReplyError(f"training loss is {loss}")
    steps = metrics.get(NUM_STEPS, 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ReplyError(f"'{NUM_STEPS}' must be a count, got {steps!r}")
    return count, float(loss)


def check_extra(reply: Message, expected: Arrays) -> None:
    """Check the extra arrays of a training reply: those that the strategy expects, finite.

    Raises
    ------
    ReplyError
        Naming the array.
    """
    record = find_record(reply.content, EXTRA, ArrayRecord) or ArrayRecord()
    _check_declared(record, expected, "extra array")
    for name, array in unpack_arrays(record, copy=False).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ReplyError(f"extra array '{name}' holds a value that is not finite")


def epsilon_in(reply: Message) -> float | None:
    """Return the epsilon that a reply reports.

    Raises
    ------
    ReplyError
        If it is no number from 0.
    """
    value = record_of(reply.content, METRICS, MetricRecord).get(EPSILON)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ReplyError(f"'{EPSILON}' must be a number from 0, got {value!r}")
    return float(value)


def cast_like(new: Arrays, sent: Arrays, place: str = "") -> Arrays:
    """Return the aggregated model in the names, shapes and dtypes that the sites know.

    Parameters
    ----------
    place : str
        Where the rule that made it is defined.

    Raises
    ------
    ReplyError
        If the strategy returned other names or shapes.
    """
    if new.keys() != sent.keys():
        changed = sorted(new.keys() ^ sent.keys())
        raise ReplyError(f"the strategy changed the weights {changed}{place}")
    for name, array in new.items():
        if array.shape != sent[name].shape:
            raise ReplyError(
                f"the strategy returned '{name}' as {array.shape}, "
                f"expected {sent[name].shape}{place}"
            )
    new = {name: new[name].astype(array.dtype, copy=False) for name, array in sent.items()}
    for name, array in new.items():
        if name.rpartition(".")[2] == "running_var" and (array < 0).any():
            new[name] = np.maximum(array, 0)  # a step, or noise, went past what a variance can be
    return new


def check_evaluate(
    reply: Message,
    num_rows: int,
    expected: Stats | None = None,
    *,
    counts_per_row: int = 1,
) -> EvaluateReply:
    """Check an evaluation reply.

    Parameters
    ----------
    num_rows : int
        Rows that the site declared in the split it was asked about.
    expected : Stats or None
        All-zero summands of this task, model and use case: what a reply may hold.
    counts_per_row : int
        How much one evaluated row may add to a count; more than 1 where rows hold many objects.

    Raises
    ------
    ReplyError
        If the count is not what the site declared, a summand is unknown, negative, larger than
        the count allows, or not finite.
    """
    answer = EvaluateReply.from_records(reply.content)
    if answer.num_examples != num_rows:
        raise ReplyError(f"reply covers {answer.num_examples} rows, the site declared {num_rows}")
    if expected is not None:
        _check_forms(answer.stats, expected)
    check_summands(answer.stats, num_rows * counts_per_row)
    return answer


def _check_forms(stats: Stats, expected: Stats) -> None:
    """Check names, shapes and dtypes, so that no site can spoil the sum for the others."""
    required = {name for name in expected if name.startswith(f"{OVERALL}/")}
    if lacking := required - stats.keys():
        raise ReplyError(f"reply lacks the summands {sorted(lacking)}")
    for name, array in stats.items():
        if name not in expected:
            raise ReplyError(f"reply holds an unknown summand '{name}'")
        empty = expected[name]
        if array.shape != empty.shape or array.dtype != empty.dtype:
            raise ReplyError(
                f"summand '{name}' is {array.dtype}{list(array.shape)}, "
                f"expected {empty.dtype}{list(empty.shape)}"
            )


def check_summands(stats: Stats, num_rows: int) -> None:
    """Check that counts lie in 0..``num_rows`` and sums are finite.

    Raises
    ------
    ReplyError
        Naming the summand.
    """
    for name, array in stats.items():
        if array.dtype.kind == "i":
            if array.size and (array.min() < 0 or array.max() > num_rows):
                raise ReplyError(f"count '{name}' lies outside 0..{num_rows}")
        elif not np.isfinite(array).all():
            raise ReplyError(f"sum '{name}' is not finite")


def _check_declared(record: ArrayRecord, sent: Arrays, what: str = "weight") -> None:
    """Check names, shapes, dtypes and byte counts before anything is decoded."""
    if wrong := record.keys() ^ sent.keys():
        raise ReplyError(f"{what}s {sorted(wrong)} are missing or were not asked for")
    for name, array in record.items():
        expected = sent[name]
        if tuple(array.shape) != expected.shape or array.dtype != str(expected.dtype):
            raise ReplyError(
                f"{what} '{name}' is {array.dtype}{list(array.shape)}, "
                f"expected {expected.dtype}{list(expected.shape)}"
            )
        if len(array.data) > expected.nbytes + HEADER_BYTES:
            raise ReplyError(f"{what} '{name}' is oversized: {len(array.data)} bytes")
