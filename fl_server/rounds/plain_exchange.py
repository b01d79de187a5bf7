"""The plain way through a phase: one message to each site, one reply from it."""

from __future__ import annotations

from fl_server.rounds.exchange import EvaluateOutcome, TrainOutcome
from fl_server.rounds.federation import Federation
from fl_server.rounds.phases import EvaluatePhase, TrainPhase, phase_of
from fl_server.rounds.replies import ReplyCollector
from tasks.contract import HOLDOUT, Arrays


class PlainExchange:
    """Send a request to each site and wait for the replies."""

    def __init__(
        self, federation: Federation, training: TrainPhase, evaluation: EvaluatePhase
    ) -> None:
        self._federation = federation
        self._training = training
        self._evaluation = evaluation

    def train(self, number: int, arrays: Arrays) -> TrainOutcome:
        """Train one round on the sites that the strategy asks."""
        collector = ReplyCollector(self._federation, "train")
        return self._training.run(
            number,
            arrays,
            collector,
            lambda messages, sent, extra: collector.collect(
                messages, self._training.check(sent, extra)
            ),
        )

    def evaluate(self, number: int, arrays: Arrays, split: str = HOLDOUT) -> EvaluateOutcome:
        """Pool the metric summands of every connected site.

        Raises
        ------
        QuorumError
            If too few sites answer.
        """
        collector = ReplyCollector(self._federation, phase_of(split))
        sites = self._evaluation.gather(split)
        messages = self._evaluation.messages(number, arrays, sites, split)
        stats = self._evaluation.pool(collector, messages, split)
        return self._evaluation.outcome(number, stats, collector.records, split)
