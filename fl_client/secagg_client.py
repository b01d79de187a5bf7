"""A site's part in a masked sum: what it keeps between the stages, and what each one sends.

The session and the result wait in Flower's ``Context.state``, so that a stock SuperNode, which
runs each message in a new process, can take part too. The result is dropped once it was masked,
the session once it gave its shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_client.policy.site import SiteConfig
from fl_common.errors import PolicyError, ReplyError
from strategies.privacy import secagg
from strategies.privacy.fixed_point import to_words
from strategies.privacy.secagg import SiteSession
from strategies.wire.messages import config_of
from strategies.wire.records import find_record, pack_arrays, record_of, unpack_arrays
from strategies.wire.secagg import (
    BOXES,
    DROPPED,
    MASK_KEY,
    MASK_KEYS,
    MASKED,
    NODES,
    NUM_SITES,
    SEAL_KEY,
    SEAL_KEYS,
    SECAGG,
    SESSION,
    SHARES,
    STAGE,
    SURVIVORS,
    THRESHOLD,
    VECTOR,
)
from tasks.contract import Arrays

KEPT_SESSION, KEPT_SUMMANDS = "secagg-session", "secagg-summands"


def opened(message: Message, context: Context, summands: Arrays) -> Message:
    """Keep the result and answer with fresh public keys (stage 0)."""
    name = config_of(message).get(SESSION)
    if not isinstance(name, str) or not name:
        raise ReplyError("the server asks for a masked sum without naming it")
    session = SiteSession.open(name, message.metadata.dst_node_id)
    context.state[KEPT_SUMMANDS] = pack_arrays(summands)
    _keep(context, session)
    return _answer(message, {MASK_KEY: session.mask_public, SEAL_KEY: session.seal_public})


def continued(message: Message, context: Context, site: SiteConfig) -> Message:
    """Answer one of the further stages."""
    asked = record_of(message.content, SECAGG, ConfigRecord)
    session = _kept(context)
    if asked.get(SESSION) != session.name or session.node != message.metadata.dst_node_id:
        raise PolicyError("the server asks about another masked sum than the one that is open")
    stage = asked.get(STAGE)
    if stage == secagg.SHARES:
        nodes, boxes = session.share(
            _ints(asked, NODES),
            _texts(asked, MASK_KEYS),
            _texts(asked, SEAL_KEYS),
            _count(asked, THRESHOLD),
            site.policy.secagg_min_sites,
        )
        reply = _answer(message, {NODES: nodes, BOXES: boxes})
    elif stage == secagg.MASK:
        words = to_words(_summands(context), _count(asked, NUM_SITES))
        masked = session.mask(_ints(asked, NODES), _texts(asked, BOXES), words)
        del context.state[KEPT_SUMMANDS]
        reply = _answer(message, {})
        reply.content[MASKED] = pack_arrays({VECTOR: masked})
    elif stage == secagg.UNMASK:
        shares = session.unmask(_ints(asked, SURVIVORS), _ints(asked, DROPPED))
        reply = _answer(message, {SHARES: shares})
    else:
        raise ReplyError(f"a masked sum has no stage {stage!r}")
    _keep(context, session)
    return reply


def _answer(message: Message, values: Mapping[str, Any]) -> Message:
    return Message(RecordDict({SECAGG: ConfigRecord(dict(values))}), reply_to=message)


def _keep(context: Context, session: SiteSession) -> None:
    if session.stage == secagg.DONE:
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


def _ints(asked: ConfigRecord, key: str) -> list[int]:
    value = asked.get(key, [])
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ReplyError(f"'{key}' must be a list of whole numbers")
    return cast(list[int], list(value))


def _texts(asked: ConfigRecord, key: str) -> list[bytes]:
    value = asked.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, bytes) for item in value):
        raise ReplyError(f"'{key}' must be a list of bytes")
    return cast(list[bytes], list(value))


def _count(asked: ConfigRecord, key: str) -> int:
    value = asked.get(key)
    if type(value) is not int or value < 1:
        raise ReplyError(f"'{key}' must be a positive whole number")
    return value
