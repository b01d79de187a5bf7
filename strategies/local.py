"""The client update of a strategy: what a site does between receiving and sending weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from strategies.site_state import SiteState
from tasks.contract import (
    Arrays,
    LocalObjective,
    LocalOutcome,
    Model,
    SiteData,
    Task,
    TrainConfig,
)

Scalar = int | float | str | bool

LEAST_STEP = 5e-324
"""The smallest positive learning rate: it rounds to zero, and no weight moves."""


@dataclass(frozen=True)
class LocalRound:
    """One site's view of one training request.

    Parameters
    ----------
    received : dict of str to array
        The weights sent by the server, already loaded into ``model``.
    extra : dict of str to array
        Further arrays of the strategy's server update (a server control variate).
    config : mapping
        The round's scalars (``proximal-mu`` ...).
    state : SiteState
    """

    task: Task
    model: Model
    data: SiteData
    train_config: TrainConfig
    received: Arrays
    config: Mapping[str, object]
    seed: int
    state: SiteState
    extra: Arrays

    def number(self, key: str, default: float) -> float:
        """Return a scalar of the round's configuration as a float."""
        value = self.config.get(key, default)
        return float(value) if isinstance(value, int | float) else default

    def train(self, objective: LocalObjective | None = None, **overrides: object) -> LocalOutcome:
        """Train locally, with the strategy's addition to the loss."""
        config = replace(self.train_config, **overrides) if overrides else self.train_config  # type: ignore[arg-type]
        return self.task.train(
            self.model, self.data, config, objective or LocalObjective(), self.seed
        )

    def loss_at_received(self) -> float:
        """Return the mean training loss at the received weights: an epoch that does not step."""
        still = replace(
            self.train_config,
            optimizer="sgd",
            lr=LEAST_STEP,
            momentum=0.0,
            weight_decay=0.0,
            local_epochs=1,
            local_steps=None,
        )
        outcome = self.task.train(self.model, self.data, still, LocalObjective(), self.seed)
        self.model.load(self.received)  # running statistics may have moved
        return outcome.loss


@dataclass(frozen=True)
class LocalResult:
    """What a client update returns: the outcome, and arrays for its server update."""

    outcome: LocalOutcome
    extra: Arrays


ClientUpdate = Callable[[LocalRound], LocalResult]
