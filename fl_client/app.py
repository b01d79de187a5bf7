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
from fl_client.policy.site import SiteConfig
from fl_client.site_lookup import site_of
from fl_client.state.memory import memory_of
from fl_client.state.round_state import RoundState, open_state
from fl_common.errors import PolicyError, ReplyError
from strategies.privacy.summands import evaluate_summands, train_summands
from strategies.wire.job import Job
from strategies.wire.messages import (
    ARRAYS,
    EXTRA,
    JOB,
    LAST_COMMITTED,
    ROUND,
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
    site, job = site_of(context), str(config_of(message)[JOB])
    return _introduced(runner.describe(site, job), message, site)


@app.query("fit")
def fit(message: Message, context: Context) -> Message:
    """Send the summands of the preprocessing."""
    site, job = site_of(context), str(config_of(message)[JOB])
    return _introduced(runner.fit(site, job), message, site)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run the strategy's client update on the site's training rows.

    What the site remembers is kept before the reply leaves: the server never has a change of
    which the site may lose its half.
    """
    config = config_of(message)
    site, number = site_of(context), _round_of(config)
    state = open_state(context, site, str(config[JOB]), before=_from(config, number))
    reply = _trained(message, context, site, state)
    state.keep(number)
    return reply


def _trained(message: Message, context: Context, site: SiteConfig, state: RoundState) -> Message:
    config = config_of(message)
    extra = find_record(message.content, EXTRA, ArrayRecord)
    job = str(config[JOB])
    received = (_weights(message), unpack_arrays(extra) if extra is not None else {})
    result = runner.train(site, job, received, config, state)
    outcome = result.outcome
    private = Job.from_json(job).train.dp is not None
    reply = TrainReply(
        outcome.arrays,
        outcome.num_examples,
        outcome.num_steps,
        loss=None if private else outcome.loss,
        epsilon=runner.spent_epsilon(site, job, state),
    )
    if Job.from_json(job).secagg:
        summands = train_summands(reply, result.extra, str(config.get(WEIGHTING, "")))
        return secagg_client.start(message, context, summands)
    update = runner.compressed(site, job, outcome.arrays, received[0], config, state)
    records = reply.to_records() if update is None else reply.to_compressed(update)
    if result.extra:
        records[EXTRA] = pack_arrays(result.extra)
    return Message(records, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Send the metric summands of the site's holdout rows, or of those that choose."""
    config = config_of(message)
    site, job = site_of(context), str(config[JOB])
    number = _round_of(config)  # round 0: as submitted
    state = open_state(context, site, job, before=_from(config, number + 1)) if number else None
    split = str(config.get(SPLIT, HOLDOUT))
    reply = runner.evaluate(site, job, _weights(message), state, split)
    if Job.from_json(job).secagg:
        summands = evaluate_summands(reply, runner.empty_stats(job))
        return secagg_client.start(message, context, summands)
    return Message(reply.to_records(), reply_to=message)


@app.query("secagg")
def masked_sum(message: Message, context: Context) -> Message:
    """Take part in the later stages of a masked sum."""
    site, job = site_of(context), Job.from_json(str(config_of(message)[JOB]))
    site.policy.check(job)
    if not job.secagg:
        raise PolicyError("the job does not ask for secure aggregation")
    return secagg_client.step(message, context, site.policy)


def _introduced(reply: SiteReply, message: Message, site: SiteConfig) -> Message:
    """Add from which round the site remembers the run: the server may have to forget its half."""
    config = config_of(message)
    memory = memory_of(site, str(config[JOB]))
    found = memory.newest(_round_of(config)) if memory is not None else None
    if found is not None:
        reply = replace(reply, memory_round=found[0])
    return Message(reply.to_records(), reply_to=message)


def _from(config: Mapping[str, object], number: int) -> int:
    """Return before which round the memory must be: earlier where the server did not get ours."""
    last = config.get(LAST_COMMITTED)
    return min(number, last + 1) if isinstance(last, int) and last >= 0 else number


def _round_of(config: Mapping[str, object]) -> int:
    number = config.get(ROUND)
    return number if isinstance(number, int) and number > 0 else 0


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
