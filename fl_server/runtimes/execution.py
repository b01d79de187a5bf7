"""One run on any grid: configuration to task, strategy and store, then the round loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import SIGINT

import numpy as np
from flwr.serverapp import Grid
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fl_common.errors import CheckpointError, ConfigError, StoppedError
from fl_common.logs import quieten
from fl_server.config.compatibility import RunParts, check_run
from fl_server.config.run_config import RunConfig, fingerprint
from fl_server.config.run_folder import write_config
from fl_server.observers.leaderboard import BoardObserver
from fl_server.observers.progress import Progress
from fl_server.results.checkpoint import Checkpoint, read_checkpoint
from fl_server.results.records import RunOutcome
from fl_server.results.result import write_result
from fl_server.rounds.admission import Admission
from fl_server.rounds.early_stopping import can_choose
from fl_server.rounds.federation import Federation
from fl_server.rounds.loop import Observer, RoundLoop
from fl_server.rounds.run_memory import RunMemory
from fl_server.rounds.run_state import RunState
from fl_server.rounds.selection import make_exchange
from strategies.privacy.combinations import protected
from strategies.registry import client_update_name
from strategies.requirements import check_layers
from tasks.contract import Arrays, Model, StartsFromFile, Task


def execute(
    grid: Grid,
    config: RunConfig,
    progress: Progress | None = None,
    parts: RunParts | None = None,
) -> RunOutcome:
    """Run one federated competition on a grid; the same on every runtime.

    Parameters
    ----------
    parts : RunParts or None
        What ``check_run`` made of the configuration, where it was asked before.

    Raises
    ------
    FedleagueError
        Whatever the user can mend, before training where possible.
    """
    quieten()
    parts = parts or check_run(config)
    task, strategy, sampler = parts.task, parts.strategy, parts.sampler
    resumed = _resumed(config)
    write_config(config)
    progress = progress or Progress(config)
    with progress, BoardObserver(config) as board, _stoppable(board):
        state = RunState(config, client_update_name(strategy), resumed.run if resumed else "")
        past = resumed.rounds if resumed else ()
        admission = Admission(grid, config.sites, state, num_past=len(past))
        pooled = admission.start(_expected(config))
        validates = can_choose(admission.registry, config)
        state.set_fitted(resumed.fitted if resumed else task.prepare(pooled))
        model = task.build(config.model, state.fitted, config.seed)
        check_layers(strategy, model)
        state.set_model(model, task.empty_stats(model))
        arrays = _starting_weights(config, task, model)
        observers: Sequence[Observer] = (board, progress)
        if note := board.open_run(arrays, list(admission.registry), past):
            progress.say(note)
        for observer in observers:
            observer.admitted(list(admission.registry))
        federation = Federation(grid, config, admission, state)
        memory = RunMemory(federation, protected(strategy, config.privacy), sampler)
        exchange = make_exchange(federation, memory, task)
        loop = RoundLoop(config, task, state, memory, exchange, validates=validates)
        outcome = loop.run(arrays, list(observers), fingerprint(config), resumed)
        write_result(config, outcome, state.fitted)
        board.finished(outcome)
        progress.finished(outcome)
    return outcome


@contextmanager
def _stoppable(board: BoardObserver) -> Iterator[None]:
    """Say how far the run came when it is stopped."""
    try:
        yield
    except KeyboardInterrupt as stop:
        signal = stop.signal if isinstance(stop, StoppedError) else SIGINT
        raise StoppedError(signal, board.stopped(signal)) from None


def _expected(config: RunConfig) -> int:
    return config.sites.expected or len(config.sources) or config.sites.quorum or 2


def _resumed(config: RunConfig) -> Checkpoint | None:
    if not config.resume:
        return None
    checkpoint = read_checkpoint(config.folder)
    if checkpoint.fingerprint != fingerprint(config):
        raise CheckpointError(
            f"{config.folder}: the run was started with another use case, model, strategy, data "
            f"or seed; give the same overrides as then, or only resume={config.folder}"
        )
    return checkpoint


def _starting_weights(config: RunConfig, task: Task, model: Model) -> Arrays:
    """Return the submitted weights, those that the task starts from, or the initial ones."""
    if config.initial_weights is None:
        if isinstance(task, StartsFromFile):
            task.start(model, config.model)
        return model.arrays()
    path = config.initial_weights
    try:
        loaded: Arrays = {k: np.asarray(a) for k, a in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"initial_weights: {path} is not a safetensors file: {error}") from None
    try:
        model.load(loaded)
    except Exception as error:
        raise ConfigError(f"initial_weights: {path} does not fit the model: {error}") from None
    return loaded
