"""The ClientApp: decode a message, call the runner, encode the reply.

The same object runs in our resident ``fl-client``, in the in-process simulation, in Flower's Ray
engine and in the stock ``flower-supernode``. The guard stands round the whole app and not, as a
Flower mod does, round each handler: a message that no handler is registered for is answered and
logged by it too.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import replace

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

from fl_client import runner, secagg_client
from fl_client.egress.guard import egress_guard
from fl_client.site_job import SiteJob
from fl_client.site_lookup import site_of
from fl_client.state.round_state import RoundState, open_state
from fl_common.errors import PolicyError, ReplyError
from strategies.privacy.summands import evaluate_summands, train_summands
from strategies.wire.messages import (
    ARRAYS,
    EXTRA,
    JOB,
    LAST_COMMITTED,
    SPLIT,
    SiteReply,
    TrainReply,
    config_of,
)
from strategies.wire.records import find_record, pack_arrays, unpack_arrays
from strategies.wire.secagg import WEIGHTING
from tasks.contract import HOLDOUT, Arrays


class GuardedApp(ClientApp):
    """A ClientApp of which nothing leaves but through the egress guard, exceptions included."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message, if only with a fixed code."""
        return egress_guard(message, context, super().__call__)


app = GuardedApp()


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say who this site is and how many rows it has."""
    job = _site_job(message, context)
    return _introduced(runner.describe(job), message, job)


@app.query("fit")
def fit(message: Message, context: Context) -> Message:
    """Send the summands of the preprocessing."""
    job = _site_job(message, context)
    return _introduced(runner.fit(job), message, job)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run the strategy's client update on the site's training rows.

    What the site remembers is kept before the reply leaves: the server never has a change of
    which the site may lose its part.
    """
    job, config = _site_job(message, context), config_of(message)
    number = _round_of(config)
    state = open_state(context, job.memory, before=_first_void(config, number))
    reply = _trained(message, context, job, state)
    state.keep(number)
    return reply


def _trained(message: Message, context: Context, job: SiteJob, state: RoundState) -> Message:
    config = config_of(message)
    extra = find_record(message.content, EXTRA, ArrayRecord)
    received = (_weights(message), unpack_arrays(extra) if extra is not None else {})
    result = runner.train(job, received, config, state)
    outcome = result.outcome
    reply = TrainReply(
        outcome.arrays,
        outcome.num_examples,
        outcome.num_steps,
        loss=outcome.loss if job.job.train.dp is None else None,
        epsilon=runner.spent_epsilon(job, state),
    )
    if job.job.secagg:
        summands = train_summands(reply, result.extra, str(config.get(WEIGHTING, "")))
        return secagg_client.start(message, context, summands)
    update = runner.compressed(job, outcome.arrays, received[0], config, state)
    records = reply.to_records() if update is None else reply.to_compressed(update)
    if result.extra:
        records[EXTRA] = pack_arrays(result.extra)
    return Message(records, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Send the metric summands of the site's holdout rows, or of those that choose."""
    job, config = _site_job(message, context), config_of(message)
    number = _round_of(config)  # round 0: as submitted
    before = _first_void(config, number + 1)
    state = open_state(context, job.memory, before=before) if number else None
    split = str(config.get(SPLIT, HOLDOUT))
    reply = runner.evaluate(job, _weights(message), state, split)
    if job.job.secagg:
        summands = evaluate_summands(reply, runner.empty_stats(job))
        return secagg_client.start(message, context, summands)
    return Message(reply.to_records(), reply_to=message)


@app.query("secagg")
def masked_sum(message: Message, context: Context) -> Message:
    """Take part in the later stages of a masked sum."""
    job = _site_job(message, context)
    if not job.job.secagg:
        raise PolicyError("the job does not ask for secure aggregation")
    return secagg_client.step(message, context, job.policy)


def _site_job(message: Message, context: Context) -> SiteJob:
    """Decode the job of a message, once; whatever the handler needs is in it."""
    return SiteJob.open(site_of(context), str(config_of(message)[JOB]))


def _introduced(reply: SiteReply, message: Message, job: SiteJob) -> Message:
    """Add from which round the site remembers the run: the server may have to forget its part."""
    number = _round_of(config_of(message))
    found = job.memory.newest(number) if job.memory is not None else None
    if found is not None:
        reply = replace(reply, memory_round=found[0])
    return Message(reply.to_records(), reply_to=message)


def _first_void(config: Mapping[str, object], number: int) -> int:
    """Return the first round whose memory does not count: earlier where our reply was lost."""
    last = config.get(LAST_COMMITTED)
    return min(number, last + 1) if isinstance(last, int) and last >= 0 else number


def _round_of(config: Mapping[str, object]) -> int:
    return max(runner.round_of(config), 0)


_last: tuple[weakref.ref[ArrayRecord], Arrays] | None = None


def _weights(message: Message) -> Arrays:
    """Decode the model; in a simulation all sites share one record, so decode it once."""
    global _last
    record = find_record(message.content, ARRAYS, ArrayRecord)
    if record is None:
        raise ReplyError(f"message '{message.metadata.message_type}' carries no weights")
    if _last is not None and _last[0]() is record:
        return _last[1]
    arrays = unpack_arrays(record)
    _last = (weakref.ref(record), arrays)
    return arrays
