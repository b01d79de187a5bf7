"""The wire format: what server and sites say to each other, and nothing else.

Every exchange is one Flower message. Both sides build and read it through the dataclasses below
and know its records and keys by the names here; those of a masked sum are in ``secagg``, the job
in ``job``, what travels between the processes in ``fleet``.

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

from dataclasses import dataclass, field, replace

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl_common.errors import ReplyError
from strategies.wire.compression import encoded_names
from strategies.wire.records import find_record, pack_arrays, record_of, unpack_arrays
from tasks.contract import Arrays
from tasks.stats import Stats

DESCRIBE, FIT, TRAIN, EVALUATE = "query.describe", "query.fit", "train", "evaluate"
ARRAYS, CONFIG, METRICS, STATS, SITE = "arrays", "config", "metrics", "stats", "site"
EXTRA, UPDATE = "extra", "update"
JOB, ROUND, NUM_EXAMPLES, PROXIMAL_MU = "job", "server-round", "num-examples", "proximal-mu"
LAST_COMMITTED = "last-committed"
"""The last round whose training at this site counts: what it remembers of later ones is void."""
SPLIT = "split"
"""Which rows an evaluation is about: ``holdout`` (where it is absent) or ``validation``."""
NUM_TRAIN, NUM_VALIDATION, NUM_HOLDOUT, NUM_STEPS, LOSS, EPSILON, NAME, MEMORY_ROUND = (
    "num-train",
    "num-validation",
    "num-holdout",
    "num-steps",
    "train-loss",
    "epsilon",
    "name",
    "memory-round",
)


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
    num_validation: int = 0

    def to_records(self) -> RecordDict:
        """Encode for the wire."""
        metrics = MetricRecord({NUM_TRAIN: self.num_train, NUM_HOLDOUT: self.num_holdout})
        if self.num_validation:
            metrics[NUM_VALIDATION] = self.num_validation
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
                _count(metrics, NUM_VALIDATION) if NUM_VALIDATION in metrics else 0,
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


def _count(metrics: MetricRecord, key: str) -> int:
    value = metrics[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ReplyError(f"'{key}' must be a count, got {value!r}")
    return value
