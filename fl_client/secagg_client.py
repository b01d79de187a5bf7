"""A site's part in a masked sum: what it keeps between the stages, and what each one sends.

The session and the result wait in Flower's ``Context.state``, so that a stock SuperNode, which
runs each message in a new process, can take part too. The result is dropped once it was masked,
the session once it gave its shares.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_client.policy.policy import Policy
from fl_common.errors import PolicyError, ReplyError
from strategies.privacy.fixed_point import to_words
from strategies.privacy.secagg import SiteSession
from strategies.wire.messages import config_of
from strategies.wire.records import find_record, pack_arrays, record_of, unpack_arrays
from strategies.wire.secagg import (
    MASKED,
    SECAGG,
    SESSION,
    VECTOR,
    KeysReply,
    MaskReply,
    MaskRequest,
    SecaggMessage,
    SharesReply,
    SharesRequest,
    Stage,
    UnmaskReply,
    request_of,
)
from tasks.contract import Arrays

KEPT_SESSION, KEPT_SUMMANDS = "secagg-session", "secagg-summands"


def start(message: Message, context: Context, summands: Arrays) -> Message:
    """Keep the result and answer with fresh public keys (stage 0)."""
    name = config_of(message).get(SESSION)
    if not isinstance(name, str) or not name:
        raise ReplyError("the server asks for a masked sum without naming it")
    session = SiteSession.open(name, message.metadata.dst_node_id)
    context.state[KEPT_SUMMANDS] = pack_arrays(summands)
    _keep(context, session)
    keys = KeysReply(mask_key=session.mask_public, seal_key=session.seal_public)
    return _answer(message, keys)


def step(message: Message, context: Context, policy: Policy) -> Message:
    """Answer one of the further stages."""
    values = record_of(message.content, SECAGG, ConfigRecord)
    asked = request_of(values)
    session = _kept(context)
    if asked.session != session.name or session.node != message.metadata.dst_node_id:
        raise PolicyError("the server asks about another masked sum than the one that is open")
    if isinstance(asked, SharesRequest):
        reply = _share(message, session, asked, policy)
    elif isinstance(asked, MaskRequest):
        reply = _mask(message, session, asked, context)
    else:
        shares = session.unmask(asked.survivors, asked.dropped)
        reply = _answer(message, UnmaskReply(shares=shares))
    _keep(context, session)
    return reply


def _share(message: Message, session: SiteSession, asked: SharesRequest, policy: Policy) -> Message:
    nodes, sealed = session.share(
        asked.nodes, asked.mask_keys, asked.seal_keys, asked.threshold, policy.secagg_min_sites
    )
    return _answer(message, SharesReply(nodes=nodes, sealed_shares=sealed))


def _mask(message: Message, session: SiteSession, asked: MaskRequest, context: Context) -> Message:
    words = to_words(_summands(context), asked.num_sites)
    masked = session.mask(asked.nodes, asked.sealed_shares, words)
    del context.state[KEPT_SUMMANDS]
    reply = _answer(message, MaskReply())
    reply.content[MASKED] = pack_arrays({VECTOR: masked})
    return reply


def _answer(message: Message, values: SecaggMessage) -> Message:
    return Message(RecordDict({SECAGG: values.to_record()}), reply_to=message)


def _keep(context: Context, session: SiteSession) -> None:
    if session.stage == Stage.DONE:
        context.state[KEPT_SESSION] = ConfigRecord()
        return
    kept = {k: v for k, v in asdict(session).items() if v != []}  # Flower cannot type an empty list
    context.state[KEPT_SESSION] = ConfigRecord(kept)


def _kept(context: Context) -> SiteSession:
    record = find_record(context.state, KEPT_SESSION, ConfigRecord)
    if not record:
        raise PolicyError("no masked sum is open at this site")
    return SiteSession(**{key: _copied(value) for key, value in record.items()})


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _summands(context: Context) -> Arrays:
    record = find_record(context.state, KEPT_SUMMANDS, ArrayRecord)
    if record is None:
        raise PolicyError("this site has no result to mask")
    return unpack_arrays(record)
