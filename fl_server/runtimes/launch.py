"""Where a run's sites are: in this process, on Flower's Ray engine, or on the network."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_common.errors import ConfigError, FedleagueError
from fl_common.logs import quieten
from fl_server.config.compatibility import RunParts, check_run
from fl_server.config.run_config import (
    DeploymentRuntime,
    RayRuntime,
    RunConfig,
    SimulationRuntime,
)
from fl_server.observers.progress import Progress
from fl_server.results.records import RunOutcome
from fl_server.rounds.early_stopping import can_choose
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulated_sites import simulated_site, write_simulated_sites
from fl_server.runtimes.simulation import CLIENT_APP, InProcessGrid, load_client_app

SITE_CHECK = "fl_client.data_check:check_simulated"
QUIET_RAY = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Ray reads these when it is imported: no statistics sent, no tips printed."""


def launch(config: RunConfig) -> RunOutcome:
    """Run a competition on the configured runtime.

    Raises
    ------
    ConfigError
        If the runtime lacks its packages, or the run does not go together.
    """
    parts = check_run(config)
    match config.runtime:
        case SimulationRuntime():
            return _simulation(config, config.runtime, parts)
        case RayRuntime():
            return _ray(config, config.runtime, parts)
        case DeploymentRuntime():
            return _deployment(config, config.runtime, parts)


def check_sites(config: RunConfig) -> list[Any]:
    """Read every simulated site's data before anything is started or written.

    Raises
    ------
    DataError, SchemaError
        Naming site, file, row and column.
    """
    job = config.job()
    module, _, function = SITE_CHECK.partition(":")
    check = getattr(importlib.import_module(module), function)
    reports: list[Any] = check([simulated_site(s) for s in config.site_data], job.to_json())
    return reports


def _simulation(config: RunConfig, runtime: SimulationRuntime, parts: RunParts) -> RunOutcome:
    from tasks.networks.threads import limit_threads

    limit_threads(runtime.threads)
    progress = _checked(config)
    return execute(InProcessGrid(config.site_data), config, progress, parts)


def _checked(config: RunConfig) -> Progress:
    """Read every simulated site, and show what its operator should know."""
    reports = check_sites(config)
    can_choose(reports, config)
    progress = Progress(config)
    for report in reports[:20]:
        for note in report.notes:
            progress.say(f"  {report.name}: {note}")
    return progress


def _ray(config: RunConfig, runtime: RayRuntime, parts: RunParts) -> RunOutcome:
    for name, value in QUIET_RAY.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401
        from flwr.simulation import run_simulation
    except ImportError:
        raise ConfigError("runtime=ray needs Ray: pip install 'fedleague[ray]'") from None
    _check_cores(runtime)
    progress = _checked(config)
    outcomes: list[RunOutcome] = []
    failures: list[FedleagueError] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        write_simulated_sites(context.run_id, config)
        try:
            outcomes.append(execute(grid, config, progress, parts))
        except FedleagueError as error:
            failures.append(error)

    resources: Any = {"num_cpus": runtime.cpus_per_client, "num_gpus": runtime.gpus_per_client}
    # Errors still show; Flower's notice that run_simulation is deprecated does not.
    quieten(logging.ERROR)
    run_simulation(
        server,
        load_client_app(CLIENT_APP),
        num_supernodes=len(config.sources),
        backend_config={
            "client_resources": resources,
            "init_args": {
                "include_dashboard": False,
                "logging_level": "ERROR",
                "log_to_driver": False,
            },
        },
    )
    if failures:
        raise failures[0]
    return outcomes[0]


def _check_cores(runtime: RayRuntime) -> None:
    """Refuse what would leave Ray without a single client; a cluster may have more cores."""
    wanted, cores = runtime.cpus_per_client, os.cpu_count() or 1
    if wanted > cores and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(f"runtime.cpus_per_client is {wanted:g}, this machine has {cores} cores")


def _deployment(config: RunConfig, runtime: DeploymentRuntime, parts: RunParts) -> RunOutcome:
    from fl_server.superlink.serve import LinkConfig, superlink

    settings = {key: value for key, value in vars(runtime).items() if key != "name"}
    with superlink(LinkConfig(**settings)) as grid:
        return execute(grid, config, parts=parts)
