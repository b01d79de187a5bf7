"""The one place that chooses how a run's messages travel."""

from __future__ import annotations

from fl_server.rounds.async_exchange import AsyncExchange
from fl_server.rounds.exchange import Exchange
from fl_server.rounds.federation import Federation
from fl_server.rounds.phases import EvaluatePhase, TrainPhase
from fl_server.rounds.plain_exchange import PlainExchange
from fl_server.rounds.run_memory import RunMemory
from fl_server.rounds.secagg_exchange import SecaggExchange
from strategies.privacy.modes import SecureAggregation
from strategies.requirements import requirements_of
from tasks.contract import Task


def make_exchange(federation: Federation, memory: RunMemory, task: Task) -> Exchange:
    """Return the exchange that a run's strategy and privacy ask for; plain messages otherwise."""
    training = TrainPhase(federation, memory)
    evaluation = EvaluatePhase(federation, memory, getattr(task, "counts_per_row", 1))
    privacy = federation.config.privacy
    if requirements_of(memory.strategy).asynchronous:
        return AsyncExchange(federation, training, evaluation)
    if isinstance(privacy, SecureAggregation):
        return SecaggExchange(privacy, federation, training, evaluation)
    return PlainExchange(federation, training, evaluation)
