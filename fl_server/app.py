"""The ServerApp main: configuration to task, strategy and store, then the round loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors import SafetensorError
from safetensors.numpy import load_file

from fl_server.board import BoardObserver
from fl_server.checkpoint import Checkpoint, read_checkpoint
from fl_server.checks import check_run, check_strategy
from fl_server.config import RunConfig, fingerprint, make_strategy
from fl_server.enrolment import Enrolment
from fl_server.instantiation import make_sampler
from fl_server.progress import Progress
from fl_server.records import Outcome
from fl_server.result import write_result
from fl_server.roster import settled_nodes
from fl_server.rounds import Observer, RoundLoop
from strategies.privacy.combinations import protected
from strategies.registry import client_half_name
from strategies.requirements import check_layers
from strategies.simulated import simulated_sites_file
from tasks.contract import Arrays, Model, Task
from tasks.errors import CheckpointError, ConfigError
from tasks.growing import GrowingModel
from tasks.hooks import StartsFromFile
from tasks.registry import load_task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry for Flower's own engines (``flwr run .``): the run config names the Hydra overrides."""
    from fl_server.compose import compose_run

    config = compose_run(context.run_config)
    if config.site_data:
        config = compose_run(context.run_config, num_nodes=settled_nodes(grid))
        write_simulated_sites(context.run_id, config)
    check_run(config)
    execute(grid, config)


def execute(grid: Grid, config: RunConfig, progress: Progress | None = None) -> Outcome:
    """Run one federated competition on a grid; the same on every runtime.

    Raises
    ------
    FedleagueError
        Whatever the user can mend, before training where possible.
    """
    quiet_flower()
    task = load_task(config.usecase.task, config.schema)
    strategy = make_strategy(config.strategy)
    check_strategy(config, strategy, task)
    sampler = make_sampler(config.resolved.get("sampling"))
    mark = fingerprint(config)
    resumed = _resumed(config, mark)
    progress = progress or Progress(config)
    with progress, BoardObserver(config) as board:
        half = client_half_name(strategy)
        enrolment = Enrolment(grid, config, task, half, resumed=resumed)
        enrolment.start(_expected(config), resumed.fitted if resumed else None)
        model = task.build(config.model, enrolment.fitted, config.seed)
        check_layers(strategy, model)
        enrolment.blank = task.blank(model)
        enrolment.growing = model if isinstance(model, GrowingModel) else None
        arrays = _starting_weights(config, task, model)
        observers: Sequence[Observer] = (board, progress)
        members = list(enrolment.roster)
        board.open_run(arrays, resumed.rounds if resumed else ())
        for observer in observers:
            observer.enrolled(members)
        strategy = protected(strategy, config.privacy)
        loop = RoundLoop(grid, config, task, strategy, enrolment, sampler)
        outcome = loop.run(arrays, list(observers), mark, resumed)
        write_result(config, outcome, enrolment.fitted)
        board.finished(outcome)
        progress.finished(outcome)
    return outcome


def write_simulated_sites(run_id: int, config: RunConfig) -> None:
    """Leave the sites where client apps of Flower's simulation engine look for them."""
    from fl_server.simulation import simulated_site

    path = simulated_sites_file(run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("\n".join(simulated_site(site) for site in config.site_data), encoding="utf-8")


def _expected(config: RunConfig) -> int:
    return config.sites.expected or len(config.site_data) or config.sites.quorum or 2


def _resumed(config: RunConfig, mark: str) -> Checkpoint | None:
    if not config.resume:
        return None
    checkpoint = read_checkpoint(config.folder)
    if checkpoint.fingerprint != mark:
        raise CheckpointError(
            f"{config.folder}: the run was started with another use case, model, strategy, data "
            "or seed; give the same overrides as then"
        )
    return checkpoint


def _starting_weights(config: RunConfig, task: Task, model: Model) -> Arrays:
    """Return the submitted weights, those that the task starts from, or the initial ones."""
    if config.weights is None:
        if isinstance(task, StartsFromFile):
            task.start(model, config.model)
        return model.arrays()
    try:
        loaded: Arrays = {k: np.asarray(a) for k, a in load_file(config.weights).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"weights: {config.weights} is not a safetensors file: {error}") from None
    try:
        model.load(loaded)
    except Exception as error:
        raise ConfigError(f"weights: {config.weights} does not fit the model: {error}") from None
    return loaded


def quiet_flower(level: int = logging.WARNING) -> None:
    """Keep Flower's own log lines out of the way of ours."""
    logging.getLogger("flwr").setLevel(level)
