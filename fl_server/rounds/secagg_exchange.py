"""Secure aggregation: masked sums in place of single replies, for training and evaluation alike."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import Strategy

from fl_common.errors import QuorumError, ReplyError
from fl_server.results.records import SiteRecord
from fl_server.rounds.exchange import EvaluateOutcome, TrainOutcome
from fl_server.rounds.federation import Federation
from fl_server.rounds.phases import EvaluatePhase, TrainPhase, phase_of
from fl_server.rounds.replies import ReplyCollector
from fl_server.rounds.reply_validation import CheckedReply, check_summands
from fl_server.rounds.sites import Site
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
from strategies.wire.messages import CONFIG, JOB, ROUND
from strategies.wire.records import record_of, unpack_arrays
from strategies.wire.secagg import (
    MASKED,
    MASKED_SUM,
    SECAGG,
    SESSION,
    VECTOR,
    WEIGHTING,
    KeysReply,
    MaskRequest,
    SharesReply,
    SharesRequest,
    StageRequest,
    UnmaskReply,
    UnmaskRequest,
    expected_form,
    vector_form,
)
from tasks.contract import HOLDOUT, TRAIN, Arrays
from tasks.stats import Stats


class SecaggExchange:
    """Learn sums over sites, of weights and of metric summands, and nothing else."""

    def __init__(
        self,
        mode: SecureAggregation,
        federation: Federation,
        training: TrainPhase,
        evaluation: EvaluatePhase,
    ) -> None:
        self._mode = mode
        self._federation = federation
        self._training = training
        self._evaluation = evaluation

    def train(self, number: int, arrays: Arrays) -> TrainOutcome:
        """Train one round; the strategy gets one reply for each site in the sum, all the mean."""
        session = SecaggSession(self._mode, self._federation, number, "train")
        config = session.first_config(self._training.strategy)
        return self._training.run(number, arrays, session, session.mean_replies, config=config)

    def evaluate(self, number: int, arrays: Arrays, split: str = HOLDOUT) -> EvaluateOutcome:
        """Pool the metric summands of every connected site.

        Raises
        ------
        QuorumError
            If too few sites answer, too many dropped out, or one did not follow the protocol.
        """
        session = SecaggSession(self._mode, self._federation, number, phase_of(split), split)
        sites, config = (
            self._evaluation.gather(split),
            session.first_config(self._training.strategy),
        )
        messages = self._evaluation.messages(number, arrays, sites, split, config)
        empty_stats = self._federation.state.empty_stats or Stats()
        stats = session.pooled(messages, empty_stats, self._evaluation.counts_per_row)
        return self._evaluation.outcome(number, stats, session.records, split)


class SecaggSession:
    """Ask some sites for one masked sum: four exchanges in place of one.

    Attributes
    ----------
    records : dict of str to SiteRecord
        One per site over all four stages; ``ok`` if the site is in the sum.
    num_accepted : int
        Sites in the sum of a training round.
    session : str
        Name of this sum.

    Parameters
    ----------
    split : str
        The rows that the sum is over.
    """

    def __init__(
        self,
        mode: SecureAggregation,
        federation: Federation,
        number: int,
        phase: str,
        split: str = TRAIN,
    ) -> None:
        self._mode = mode
        self._federation = federation
        self._base = ConfigRecord({JOB: federation.state.job_text, ROUND: number})
        self.phase = phase
        self._split = split
        self.session = secrets.token_hex(16)
        self.records: dict[str, SiteRecord] = {}
        self.num_accepted = 0

    def first_config(self, strategy: Strategy) -> dict[str, str]:
        """Return what the first messages must say: which sum this is, and how sites weigh in it."""
        weighting = requirements_of(strategy).weighting or "examples"
        return {SESSION: self.session, WEIGHTING: weighting}

    def mean_replies(
        self, messages: Iterable[Message], sent: Arrays, extra: Arrays
    ) -> list[Message]:
        """Return one reply for each site in the sum, all with the sites' mean.

        Raises
        ------
        ReplyError
            If too many sites dropped out, or one did not follow the protocol.
        """
        sums, replies = self._sum(messages, train_layout(sent, extra))
        mean_replies(sums, sent, replies, extra)
        self.num_accepted = len(replies)
        return replies

    def pooled(self, messages: Iterable[Message], empty_stats: Stats, counts_per_row: int) -> Stats:
        """Return the pooled metric summands.

        Raises
        ------
        QuorumError
            If too many sites dropped out, or one did not follow the protocol.
        """
        try:
            sums, _ = self._sum(messages, evaluate_layout(empty_stats))
            declared = sum(r.num_examples for r in self.records.values() if r.status == "ok")
            if int(sums[EXAMPLES_KEY]) != declared:
                raise ReplyError("the unmasked sum is not one; a site did not follow the protocol")
            pooled = pooled_stats(sums, empty_stats)
            check_summands(pooled, declared * counts_per_row)
        except ReplyError as error:
            raise QuorumError(
                f"the model cannot be evaluated: {error}; the last finished round is saved, "
                f"continue with fl-server resume={self._federation.config.folder}"
            ) from error
        return pooled

    def _sum(self, messages: Iterable[Message], layout: Layout) -> tuple[Arrays, list[Message]]:
        """Return the sums, and the message of each site that is in them."""
        total = MaskedSum(self._mode, num_words(layout))
        introduced = list(self._stage(messages, _keys, back=True))
        for reply in introduced:
            keys = _keys(reply)
            total.add_keys(_node(reply), keys.mask_key, keys.seal_key)
        total.form_groups(random.Random(secrets.randbits(64)))
        shared = self._share(total, [_node(reply) for reply in introduced])
        replies = self._mask(total, shared)
        self._unmask(total, [_node(reply) for reply in replies])
        return from_words(total.result(), layout), replies

    def _share(self, total: MaskedSum, nodes: list[int]) -> list[int]:
        requests = []
        for node in nodes:
            group, mask_keys, seal_keys, threshold = total.group(node)
            asked = SharesRequest(
                session=self.session,
                nodes=group,
                mask_keys=mask_keys,
                seal_keys=seal_keys,
                threshold=threshold,
            )
            requests.append(self._request(node, asked))

        def check(reply: Message) -> None:
            sent = SharesReply.from_record(_values(reply))
            total.add_shares(_node(reply), sent.nodes, sent.sealed_shares)

        left = [_node(reply) for reply in self._stage(requests, check)]
        total.check(left)
        return left

    def _mask(self, total: MaskedSum, nodes: list[int]) -> list[Message]:
        requests = []
        for node in nodes:
            sources, sealed_shares = total.sealed_shares_for(node)
            asked = MaskRequest(
                session=self.session,
                nodes=sources,
                sealed_shares=sealed_shares,
                num_sites=total.num_sites,
                num_words=total.size,
            )
            requests.append(self._request(node, asked))

        def check(reply: Message) -> None:
            record = record_of(reply.content, MASKED, ArrayRecord)
            if vector_form(record) != expected_form(total.size):
                raise ReplyError("the masked vector is not of the form that was asked for")
            total.add_masked(_node(reply), unpack_arrays(record, copy=False)[VECTOR])
            reply.content[MASKED] = ArrayRecord()  # added; only the envelope is needed

        replies = list(self._stage(requests, check))
        total.check(total.survivors)
        return replies

    def _unmask(self, total: MaskedSum, nodes: list[int]) -> None:
        requests = []
        for node in nodes:
            survivors, dropped = total.status(node)
            asked = UnmaskRequest(session=self.session, survivors=survivors, dropped=dropped)
            requests.append(self._request(node, asked))

        def check(reply: Message) -> None:
            total.add_unmasking(_node(reply), UnmaskReply.from_record(_values(reply)).shares)

        for _ in self._stage(requests, check, summed=True):
            pass

    def _request(self, node: int, asked: StageRequest) -> Message:
        content = RecordDict({CONFIG: self._base, SECAGG: asked.to_record()})
        return Message(content, node, MASKED_SUM)

    def _stage(
        self,
        messages: Iterable[Message],
        check: Callable[[Message], object],
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
        waits = self._federation.config.sites
        waits = waits if back else replace(waits, rejoin_seconds=0.0)
        collector = ReplyCollector(self._federation, self.phase, waits)

        def checked(site: Site, reply: Message) -> CheckedReply:
            check(reply)
            return CheckedReply(site.num_rows(self._split))

        yield from collector.collect(messages, checked)
        for site, record in collector.records.items():
            before = self.records.get(site)
            if before is None:
                self.records[site] = record
                continue
            latest = before if summed else record
            self.records[site] = replace(
                latest,
                seconds=before.seconds + record.seconds,
                bytes_up=before.bytes_up + record.bytes_up,
                bytes_down=before.bytes_down + record.bytes_down,
            )
        if not summed and not back:
            self._mark_lost(collector)

    def _mark_lost(self, collector: ReplyCollector) -> None:
        """Record sites that were on their way and could not even be asked any more."""
        for site, record in self.records.items():
            if site not in collector.records and record.status == "ok":
                lost = "dropped out of the masked sum"
                self.records[site] = replace(record, status="absent", reason=lost)


def _keys(reply: Message) -> KeysReply:
    return KeysReply.from_record(_values(reply))


def _values(reply: Message) -> ConfigRecord:
    return record_of(reply.content, SECAGG, ConfigRecord)


def _node(reply: Message) -> int:
    return int(reply.metadata.src_node_id)
