"""What a run leaves behind: the records that the round loop writes and the leaderboard keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fl_server.config.usecase import UseCaseInfo
from fl_server.results.columns import RoundColumns, SiteColumns
from fl_server.results.evaluation import ShippedUseCase
from tasks.contract import Arrays
from tasks.scores import ScoreCard


@dataclass(frozen=True)
class SubmissionInfo:
    """One model entered into a use case."""

    team: str
    model: str
    params: dict[str, Any] = field(default_factory=dict)
    claimed: float | None = None
    num_parameters: int | None = None


@dataclass(frozen=True)
class RunInfo:
    """One submission executed on one federation."""

    key: str
    """Stable identity of the run (its folder); a resumed run keeps it."""
    usecase: UseCaseInfo
    submission: SubmissionInfo
    strategy: str
    runtime: str
    seed: int
    num_rounds: int
    config: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    """What the scores are measured on (``results.evaluation``)."""
    shipped: ShippedUseCase | None = None
    """The use case without the run's overrides, where it can be known."""


@dataclass(frozen=True)
class SiteRecord(SiteColumns):
    """What one site contributed to one exchange: the acknowledged record.

    Parameters
    ----------
    site : str
    phase : {"fit", "train", "evaluate", "validate"}
    status : {"ok", "late", "failed", "refused", "diverged", "absent", "training"}
        ``training``: an asynchronous strategy did not wait for this site; no failure.
    num_examples : int
    seconds : float
        From sending the message until its reply was folded.
    bytes_up, bytes_down : int
        Bytes from and to the site.
    reason : str
        Why the status is not ``ok``.

    Further numbers are those of ``SiteColumns``.
    """

    site: str
    phase: str
    status: str
    num_examples: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    reason: str = ""
    loss: float | None = None


@dataclass(frozen=True)
class RoundRecord(RoundColumns):
    """One round: the training exchange, the evaluation exchange and the pooled scores.

    Parameters
    ----------
    round : int
        0 is the baseline.
    phase : {"baseline", "finetune"}
    status : {"ok", "diverged", "failed"}
        Not ``ok``: the previous model was kept, and ``reason`` says why.
    score : float or None
        The use case's score; ``None`` where it is absent.
    strategy_metrics : mapping of str to float
        The strategy's own numbers about the round.

    Further numbers are those of ``RoundColumns``.
    """

    round: int
    phase: str
    status: str
    score: float | None
    card: ScoreCard
    sites: tuple[SiteRecord, ...]
    seconds: float
    bytes_up: int
    bytes_down: int
    reason: str = ""
    train_loss: float | None = None
    strategy_metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunOutcome:
    """What a run ends with."""

    arrays: Arrays
    rounds: tuple[RoundRecord, ...]
    stopped_early: bool = False

    @property
    def num_failed(self) -> int:
        """Number of rounds after the baseline that left no model."""
        return sum(record.status != "ok" for record in self.rounds[1:])

    @property
    def failure(self) -> str:
        """Why the run failed: no round after the baseline left a model; empty if it did not."""
        if not self.num_failed or self.num_failed < len(self.rounds) - 1:
            return ""
        return f"none of {self.num_failed} rounds succeeded, the last one: {self.rounds[-1].reason}"
