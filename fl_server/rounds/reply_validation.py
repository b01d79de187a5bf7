"""What a site's reply must look like before it may touch the sum.

Sites are not trusted to be honest or healthy: a reply with other shapes, values that are not
finite, too large an update or more examples than the site declared is refused, and named.
"""

from __future__ import annotations

import math

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fl_common.errors import ReplyError
from fl_server.results.scoring import OVERALL
from strategies.tree_replies import check_tree_reply
from strategies.wire.compression import (
    Compression,
    applies,
    decode,
    encoded_form,
    encoded_names,
)
from strategies.wire.messages import (
    ARRAYS,
    EXTRA,
    LOSS,
    METRICS,
    NUM_EXAMPLES,
    NUM_STEPS,
    UPDATE,
    EvaluateReply,
)
from strategies.wire.records import find_record, pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays
from tasks.stats import Stats
from tasks.trees.variable_size import VariableSizeModel

HEADER_BYTES = 1024
"""Largest ``.npy`` header we accept beside the array's own bytes."""


def check_train(
    reply: Message,
    sent: Arrays,
    num_train: int,
    max_update_norm: float | None = None,
    *,
    extra: Arrays | None = None,
    growing: tuple[VariableSizeModel, bool] | None = None,
) -> tuple[int, float]:
    """Check a training reply; return its example count and loss.

    Parameters
    ----------
    sent : dict of str to array
        The weights that the site received.
    num_train : int
        Training rows that the site declared when it joined.
    extra : dict of str to array or None
        The names, shapes and dtypes of the extra arrays that the strategy expects, all of them;
        none otherwise.
    growing : (VariableSizeModel, bool) or None
        A model that judges replies itself, and whether they continue ``sent``.

    Raises
    ------
    ReplyError
        Saying what is wrong with the reply.
    """
    record = find_record(reply.content, ARRAYS, ArrayRecord)
    metrics = find_record(reply.content, METRICS, MetricRecord)
    if record is None or metrics is None:
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
    check_extra(reply, extra or {})
    if growing is not None:
        check_tree_reply(record, sent, growing[0], whole=growing[1])
        return count, float(loss)
    _check_declared(record, sent)
    arrays = unpack_arrays(record, copy=False)
    squared = 0.0
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ReplyError(f"weight '{name}' holds a value that is not finite")
        if max_update_norm is not None:
            squared += float(np.sum(np.square(array.astype(np.float64) - sent[name])))
    if max_update_norm is not None and math.sqrt(squared) > max_update_norm:
        raise ReplyError(
            f"update has l2 norm {math.sqrt(squared):.4g}, above sites.max_update_norm"
        )
    return count, float(loss)


def decode_update(reply: Message, sent: Arrays, compression: Compression) -> None:
    """Put the weights in place of a compressed update, for whatever looks at the reply next.

    Raises
    ------
    ReplyError
        If the update is not in the form that was asked for.
    """
    if not applies(sent, compression):
        return
    update = record_of(reply.content, UPDATE, ArrayRecord)
    whole = record_of(reply.content, ARRAYS, ArrayRecord)
    blank = {n: np.empty(s, d) for n, (s, d) in encoded_form(sent, compression).items()}
    _check_declared(update, blank, "update's part")
    _check_declared(whole, {n: a for n, a in sent.items() if n not in encoded_names(sent)})
    weights = decode(unpack_arrays(update, copy=False), sent, compression)
    reply.content[ARRAYS] = pack_arrays(weights | unpack_arrays(whole, copy=False))
    del reply.content[UPDATE]


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
        blank = expected[name]
        if array.shape != blank.shape or array.dtype != blank.dtype:
            raise ReplyError(
                f"summand '{name}' is {array.dtype}{list(array.shape)}, "
                f"expected {blank.dtype}{list(blank.shape)}"
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
