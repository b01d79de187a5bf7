"""Masked sums on the grid: four exchanges in place of one, for training and evaluation alike."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from fl_common.errors import QuorumError, ReplyError
from fl_server.config.run_config import SitesConfig
from fl_server.results.records import SiteRecord
from fl_server.rounds.exchange import Exchange
from fl_server.rounds.reply_validation import check_summands
from fl_server.rounds.sites import Site
from strategies.privacy import secagg
from strategies.privacy.fixed_point import Layout, from_words, num_words
from strategies.privacy.modes import SecureAggregation
from strategies.privacy.secagg_server import MaskedSum
from strategies.privacy.summands import (
    EXAMPLES_KEY,
    evaluate_layout,
    mean_replies,
    pooled_stats,
    train_layout,
)
from strategies.requirements import requirements_of
from strategies.wire.messages import CONFIG
from strategies.wire.records import record_of, unpack_arrays
from strategies.wire.secagg import (
    BOXES,
    DROPPED,
    MASK_KEY,
    MASK_KEYS,
    MASKED,
    MASKED_SUM,
    NODES,
    NUM_SITES,
    NUM_WORDS,
    SEAL_KEY,
    SEAL_KEYS,
    SECAGG,
    SESSION,
    SHARES,
    STAGE,
    SURVIVORS,
    THRESHOLD,
    VECTOR,
    WEIGHTING,
)
from tasks.contract import Arrays
from tasks.stats import Stats

MakeExchange = Callable[[SitesConfig], Exchange]
"""How long to wait for whom -> a fresh exchange."""


class SecaggExchange:
    """Ask some sites for a masked sum.

    Attributes
    ----------
    records : dict of str to SiteRecord
        One per site over all four stages; ``ok`` if the site is in the sum.
    session : str
        Name of this sum.
    """

    def __init__(
        self,
        mode: SecureAggregation,
        make: MakeExchange,
        sites: SitesConfig,
        phase: str,
        base: ConfigRecord,
    ) -> None:
        self._mode = mode
        self._make = make
        self._sites = sites
        self._base = base
        self.phase = phase
        self.session = secrets.token_hex(16)
        self.records: dict[str, SiteRecord] = {}

    def named(self, strategy: Strategy) -> dict[str, str]:
        """Return what the first messages must say: which sum this is, and how sites weigh in it."""
        weighting = requirements_of(strategy).weighting or "examples"
        return {SESSION: self.session, WEIGHTING: weighting}

    def train(self, messages: Iterable[Message], sent: Arrays, extra: Arrays) -> list[Message]:
        """Return one reply for each site in the sum, all with the sites' mean.

        Raises
        ------
        ReplyError
            If too many sites dropped out, or one did not follow the protocol.
        """
        sums, carriers = self._sum(messages, train_layout(sent, extra))
        mean_replies(sums, sent, carriers, extra)
        return carriers

    def evaluate(self, messages: Iterable[Message], blank: Stats, counts_per_row: int) -> Stats:
        """Return the pooled metric summands.

        Raises
        ------
        QuorumError
            If too many sites dropped out, or one did not follow the protocol.
        """
        try:
            sums, _ = self._sum(messages, evaluate_layout(blank))
            declared = sum(r.num_examples for r in self.records.values() if r.status == "ok")
            if int(sums[EXAMPLES_KEY]) != declared:
                raise ReplyError("the unmasked sum is not one; a site did not follow the protocol")
            pooled = pooled_stats(sums, blank)
            check_summands(pooled, declared * counts_per_row)
        except ReplyError as error:
            raise QuorumError(
                f"the model cannot be evaluated: {error}; the last finished round is saved, "
                "continue with resume=true"
            ) from error
        return pooled

    def _sum(self, messages: Iterable[Message], layout: Layout) -> tuple[Arrays, list[Message]]:
        """Return the sums, and the message of each site that is in them."""
        total = MaskedSum(self._mode, num_words(layout))
        keys = list(self._stage(messages, _no_check, back=True))
        for reply in keys:
            record = record_of(reply.content, SECAGG, ConfigRecord)
            total.add_keys(_node(reply), _bytes(record, MASK_KEY), _bytes(record, SEAL_KEY))
        total.form_groups(random.Random(secrets.randbits(64)))
        shared = self._share(total, [_node(reply) for reply in keys])
        carriers = self._mask(total, shared)
        self._unmask(total, [_node(reply) for reply in carriers])
        return from_words(total.result(), layout), carriers

    def _share(self, total: MaskedSum, nodes: list[int]) -> list[int]:
        requests = []
        for node in nodes:
            group, mask_keys, seal_keys, threshold = total.group(node)
            asked = {NODES: group, MASK_KEYS: mask_keys, SEAL_KEYS: seal_keys}
            requests.append(self._request(node, secagg.SHARES, {**asked, THRESHOLD: threshold}))

        def check(reply: Message) -> None:
            record = record_of(reply.content, SECAGG, ConfigRecord)
            total.add_shares(_node(reply), _list(record, NODES, int), _list(record, BOXES, bytes))

        left = [_node(reply) for reply in self._stage(requests, check)]
        total.check(left)
        return left

    def _mask(self, total: MaskedSum, nodes: list[int]) -> list[Message]:
        size = total.size
        requests = []
        for node in nodes:
            sources, boxes = total.boxes_for(node)
            asked = {NODES: sources, BOXES: boxes, NUM_SITES: total.num_sites, NUM_WORDS: size}
            requests.append(self._request(node, secagg.MASK, asked))

        def check(reply: Message) -> None:
            record = record_of(reply.content, MASKED, ArrayRecord)
            forms = {name: (tuple(a.shape), a.dtype) for name, a in record.items()}
            if forms != {VECTOR: ((size,), "uint64")}:
                raise ReplyError("the masked vector is not of the form that was asked for")
            total.add_masked(_node(reply), unpack_arrays(record, copy=False)[VECTOR])
            reply.content[MASKED] = ArrayRecord()  # added; only the envelope is needed

        carriers = list(self._stage(requests, check))
        total.check(total.survivors)
        return carriers

    def _unmask(self, total: MaskedSum, nodes: list[int]) -> None:
        requests = []
        for node in nodes:
            survivors, dropped = total.fates(node)
            asked = {SURVIVORS: survivors, DROPPED: dropped}
            requests.append(self._request(node, secagg.UNMASK, asked))

        def check(reply: Message) -> None:
            record = record_of(reply.content, SECAGG, ConfigRecord)
            total.add_unmasking(_node(reply), _list(record, SHARES, bytes))

        for _ in self._stage(requests, check, summed=True):
            pass

    def _request(self, node: int, stage: int, values: Mapping[str, object]) -> Message:
        kept = {key: value for key, value in values.items() if value != []}
        asked = ConfigRecord({SESSION: self.session, STAGE: stage, **kept})  # type: ignore[dict-item]
        return Message(RecordDict({CONFIG: self._base, SECAGG: asked}), node, MASKED_SUM)

    def _stage(
        self,
        messages: Iterable[Message],
        check: Callable[[Message], None],
        *,
        back: bool = False,
        summed: bool = False,
    ) -> Iterator[Message]:
        """Run one exchange; add what it cost to each site's record.

        Parameters
        ----------
        back : bool
            Whether to wait for sites that dropped out: of no use once their session is lost.
        summed : bool
            Whether the sites are in the sum already, whatever becomes of their replies.
        """
        waiting = self._sites if back else replace(self._sites, rejoin_seconds=0.0)
        exchange = self._make(waiting)

        def screen(member: Site, reply: Message) -> tuple[int, None]:
            check(reply)
            return member.num_train if self.phase == "train" else member.num_holdout, None

        yield from exchange.replies(messages, screen)
        for site, record in exchange.records.items():
            before = self.records.get(site)
            if before is None:
                self.records[site] = record
                continue
            outcome = before if summed else record
            self.records[site] = replace(
                outcome,
                seconds=before.seconds + record.seconds,
                bytes_up=before.bytes_up + record.bytes_up,
                bytes_down=before.bytes_down + record.bytes_down,
            )
        if not summed and not back:
            self._mark_lost(exchange)

    def _mark_lost(self, exchange: Exchange) -> None:
        """Record sites that were on their way and could not even be asked any more."""
        for site, record in self.records.items():
            if site not in exchange.records and record.status == "ok":
                lost = "dropped out of the masked sum"
                self.records[site] = replace(record, status="absent", reason=lost)


def _no_check(reply: Message) -> None:
    record = record_of(reply.content, SECAGG, ConfigRecord)
    for key in (MASK_KEY, SEAL_KEY):
        _bytes(record, key)


def _node(reply: Message) -> int:
    return int(reply.metadata.src_node_id)


def _bytes(record: ConfigRecord, key: str) -> bytes:
    value = record.get(key)
    if not isinstance(value, bytes):
        raise ReplyError(f"'{key}' must be bytes")
    return value


def _list(record: ConfigRecord, key: str, kind: type) -> list:  # type: ignore[type-arg]
    value = record.get(key, [])
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise ReplyError(f"'{key}' must be a list of {kind.__name__}")
    return list(value)
