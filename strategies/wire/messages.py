"""The wire format: what server and sites say to each other, and nothing else.

Every exchange is one Flower message. This module is the only owner of record names and keys;
both sides build and read messages through the dataclasses below.

=====================  ==============================  =========================================
message type           request                         reply
=====================  ==============================  =========================================
``query.describe``     ``config`` (job)                ``site``, ``metrics`` (row counts)
``query.fit``          ``config`` (job)                the same and ``stats`` (summands)
``train``              ``arrays``, ``config``          ``arrays``, ``metrics`` (num-examples ...)
the same, compressed   the same                        ``update``; ``arrays`` (integer ones only)
``evaluate``           ``arrays``, ``config``          ``stats``, ``metrics`` (num-examples)
``train``, masked      the same, and the sum's name    ``secagg`` (public keys)
``evaluate``, masked   the same                        the same
``query.secagg``       ``config``, ``secagg`` (stage)  ``secagg``; ``masked`` (in stage 2)
=====================  ==============================  =========================================

Training replies carry exactly one ``ArrayRecord`` and one ``MetricRecord`` with ``num-examples``,
which is what every ``flwr.serverapp.strategy`` expects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl_common.errors import (
    DataError,
    DivergedError,
    EgressError,
    PolicyError,
    ReplyError,
    SchemaError,
)
from strategies.wire import npy
from strategies.wire.compression import encoded_names
from strategies.wire.job import PROTOCOL as PROTOCOL
from strategies.wire.job import Job as Job
from tasks.contract import Arrays
from tasks.stats import Stats

Record = TypeVar("Record", ArrayRecord, MetricRecord, ConfigRecord)
DESCRIBE, FIT, TRAIN, EVALUATE = "query.describe", "query.fit", "train", "evaluate"
ARRAYS, CONFIG, METRICS, STATS, SITE = "arrays", "config", "metrics", "stats", "site"
EXTRA, UPDATE = "extra", "update"
MASKED_SUM, SECAGG, MASKED, VECTOR = "query.secagg", "secagg", "masked", "vector"
JOB, ROUND, NUM_EXAMPLES, PROXIMAL_MU = "job", "server-round", "num-examples", "proximal-mu"
RECALL = "recall"
"""The last round whose training at this site counts: what it remembers of later ones is void."""
NUM_TRAIN, NUM_HOLDOUT, NUM_STEPS, LOSS, EPSILON, NAME, MEMORY_ROUND = (
    "num-train",
    "num-holdout",
    "num-steps",
    "train-loss",
    "epsilon",
    "name",
    "memory-round",
)

SESSION, STAGE, WEIGHTING = "secagg-session", "secagg-stage", "secagg-weighting"
MASK_KEY, SEAL_KEY, MASK_KEYS, SEAL_KEYS = "mask-key", "seal-key", "mask-keys", "seal-keys"
NODES, BOXES, SHARES, THRESHOLD = "nodes", "boxes", "shares", "threshold"
SURVIVORS, DROPPED, NUM_SITES, NUM_WORDS = "survivors", "dropped", "num-sites", "num-words"


class Refusal(Enum):
    """Why a site sent no result: a code and a fixed text, so that no data can ride along."""

    PROTOCOL = (1001, "the site speaks another protocol version or could not read the job")
    POLICY = (1002, "the site's policy refuses this request")
    DATA = (1003, "the site's data cannot be used; its operator sees the reason in the site's log")
    SCHEMA = (1004, "the site's columns or classes do not fit the use case; see the site's log")
    DIVERGED = (1005, "training diverged at the site: the loss or a weight is not finite")
    EGRESS = (1006, "the site's egress guard held the reply back; see the site's audit log")
    INTERNAL = (1099, "the site failed; its operator sees the reason in the site's log")

    @property
    def code(self) -> int:
        """Number on the wire."""
        return self.value[0]

    @property
    def text(self) -> str:
        """Fixed text on the wire."""
        return self.value[1]

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """Map an exception to the one code that may leave."""
        by_type: tuple[tuple[type[Exception], Refusal], ...] = (
            (SchemaError, cls.SCHEMA),
            (DataError, cls.DATA),
            (PolicyError, cls.POLICY),
            (DivergedError, cls.DIVERGED),
            (EgressError, cls.EGRESS),
            (ReplyError, cls.PROTOCOL),
        )
        return next((refusal for kind, refusal in by_type if isinstance(error, kind)), cls.INTERNAL)

    @classmethod
    def from_code(cls, code: int) -> Refusal | None:
        """Return the refusal with this code; None for Flower's own codes (a lost node)."""
        return next((refusal for refusal in cls if refusal.code == code), None)


@dataclass(frozen=True)
class SiteReply:
    """A site's answer to ``query.describe`` and ``query.fit``.

    ``memory_round`` is the last round, before the one asked about, after which the site has kept
    what the strategy remembers; None if there is none.
    """

    name: str
    num_train: int
    num_holdout: int
    stats: Stats = field(default_factory=Stats)
    memory_round: int | None = None

    def to_records(self) -> RecordDict:
        """Encode for the wire."""
        metrics = MetricRecord({NUM_TRAIN: self.num_train, NUM_HOLDOUT: self.num_holdout})
        if self.memory_round is not None:
            metrics[MEMORY_ROUND] = self.memory_round
        records = RecordDict({SITE: ConfigRecord({NAME: self.name}), METRICS: metrics})
        if len(self.stats):
            records[STATS] = pack_arrays(self.stats)
        return records

    @staticmethod
    def from_records(records: RecordDict) -> SiteReply:
        """Decode; ``ReplyError`` when a record or key is missing or of another type."""
        try:
            metrics = record_of(records, METRICS, MetricRecord)
            name = record_of(records, SITE, ConfigRecord)[NAME]
            if not isinstance(name, str) or not name:
                raise ReplyError("the site sent no name")
            stats = find_record(records, STATS, ArrayRecord)
            return SiteReply(
                name,
                _count(metrics, NUM_TRAIN),
                _count(metrics, NUM_HOLDOUT),
                Stats(unpack_arrays(stats)) if stats is not None else Stats(),
                _count(metrics, MEMORY_ROUND) if MEMORY_ROUND in metrics else None,
            )
        except KeyError as error:
            raise ReplyError(f"reply lacks {error}") from error


@dataclass(frozen=True)
class TrainReply:
    """A site's trained weights (a summand once multiplied by ``num_examples``).

    Private training sends what it has spent so far (``epsilon``), and no loss.
    """

    arrays: Arrays
    num_examples: int
    num_steps: int = 0
    loss: float | None = 0.0
    epsilon: float | None = None

    def to_records(self) -> RecordDict:
        """Encode for the wire."""
        metrics = MetricRecord({NUM_EXAMPLES: self.num_examples, NUM_STEPS: self.num_steps})
        for key, value in ((LOSS, self.loss), (EPSILON, self.epsilon)):
            if value is not None:
                metrics[key] = value
        return RecordDict({ARRAYS: pack_arrays(self.arrays), METRICS: metrics})

    def to_compressed(self, update: Arrays) -> RecordDict:
        """Encode for the wire, with an encoded update in place of what it encodes."""
        encoded = encoded_names(self.arrays)
        whole = {name: a for name, a in self.arrays.items() if name not in encoded}
        records = replace(self, arrays=whole).to_records()
        records[UPDATE] = pack_arrays(update)
        return records


@dataclass(frozen=True)
class EvaluateReply:
    """A site's metric summands."""

    stats: Stats
    num_examples: int

    def to_records(self) -> RecordDict:
        """Encode for the wire."""
        metrics = MetricRecord({NUM_EXAMPLES: self.num_examples})
        return RecordDict({STATS: pack_arrays(self.stats), METRICS: metrics})

    @staticmethod
    def from_records(records: RecordDict) -> EvaluateReply:
        """Decode; ``ReplyError`` when a record or key is missing or of another type."""
        try:
            count = _count(record_of(records, METRICS, MetricRecord), NUM_EXAMPLES)
            stats = Stats(unpack_arrays(record_of(records, STATS, ArrayRecord)))
            return EvaluateReply(stats, count)
        except KeyError as error:
            raise ReplyError(f"reply lacks {error}") from error


def request(job: str, server_round: int = 0, arrays: ArrayRecord | None = None) -> RecordDict:
    """Build the content of a request; the same object may go to every site."""
    records = RecordDict({CONFIG: ConfigRecord({JOB: job, ROUND: server_round})})
    if arrays is not None:
        records[ARRAYS] = arrays
    return records


def config_of(message: Message) -> ConfigRecord:
    """Return a request's configuration.

    Raises
    ------
    ReplyError
        If the message carries none, or no job.
    """
    config = find_record(message.content, CONFIG, ConfigRecord)
    if config is None or not isinstance(config.get(JOB), str):
        raise ReplyError(f"message '{message.metadata.message_type}' carries no job")
    return config


def find_record(content: RecordDict, name: str, kind: type[Record]) -> Record | None:
    """Return a record, or None if there is none of that name and kind.

    Unlike ``content.array_records``, which makes a view that refers to itself and so keeps the
    content in memory until the garbage collector comes by: with large models, gigabytes.
    """
    record = content.get(name)
    return record if isinstance(record, kind) else None


def record_of(content: RecordDict, name: str, kind: type[Record]) -> Record:
    """Return a record; see ``find_record``.

    Raises
    ------
    ReplyError
        If there is none of that name and kind.
    """
    record = find_record(content, name, kind)
    if record is None:
        raise ReplyError(f"reply lacks '{name}'")
    return record


def refusal(error: Exception, message: Message) -> Message:
    """Answer ``message`` with the fixed code for ``error``; its text stays at the site."""
    why = Refusal.of(error)
    return Message(Error(why.code, why.text), reply_to=message)


def pack_arrays(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Encode named numpy arrays."""
    return ArrayRecord({name: npy.encode(values) for name, values in arrays.items()})


def unpack_arrays(record: ArrayRecord, *, copy: bool = True) -> Arrays:
    """Decode named numpy arrays.

    Parameters
    ----------
    copy : bool
        False: read-only views of the bytes received, for whoever only looks or adds up.

    Raises
    ------
    ReplyError
        If an array's bytes do not match what it declares.
    """
    arrays: Arrays = {}
    for name, array in record.items():
        try:
            value = npy.decode(array, copy=copy)
        except Exception as error:
            raise ReplyError(f"array '{name}' cannot be decoded") from error
        if list(value.shape) != list(array.shape) or str(value.dtype) != array.dtype:
            raise ReplyError(f"array '{name}' does not hold what it declares")
        arrays[name] = value
    return arrays


def payload_bytes(records: RecordDict) -> int:
    """Return the array bytes and the text bytes of a message's content."""
    total = 0
    for record in records.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            for value in record.values():
                items = value if isinstance(value, list) else [value]
                total += sum(len(item) for item in items if isinstance(item, str | bytes))
    return total


def _count(metrics: MetricRecord, key: str) -> int:
    value = metrics[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ReplyError(f"'{key}' must be a count, got {value!r}")
    return value
