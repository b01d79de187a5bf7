"""Where a run's sites are: in this process, on Flower's Ray engine, or on the network."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_common.errors import ConfigError, FedleagueError
from fl_common.logs import quieten
from fl_server.config.compatibility import check_run
from fl_server.config.run_config import RunConfig
from fl_server.observers.progress import Progress
from fl_server.results.records import RunOutcome
from fl_server.rounds.early_stopping import can_choose
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulated_sites import simulated_site, write_simulated_sites
from fl_server.runtimes.simulation import CLIENT_APP, InProcessGrid, load_client_app
from strategies.wire.job import Job

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
        If the runtime does not exist or lacks its packages.
    """
    runtimes = {"simulation": _simulation, "ray": _ray, "deployment": _deployment}
    if config.runtime_name not in runtimes:
        raise ConfigError(f"unknown runtime '{config.runtime_name}'; known: {sorted(runtimes)}")
    check_run(config)
    return runtimes[config.runtime_name](config)


def check_sites(config: RunConfig) -> list[Any]:
    """Read every simulated site's data before anything is started or written.

    Raises
    ------
    DataError, SchemaError
        Naming site, file, row and column.
    """
    job = Job(
        task=config.usecase.task,
        schema=config.schema,
        model=config.model,
        train=config.train,
        seed=config.seed,
        split_seed=config.split_seed,
    )
    module, _, function = SITE_CHECK.partition(":")
    check = getattr(importlib.import_module(module), function)
    reports: list[Any] = check([simulated_site(s) for s in config.site_data], job.to_json())
    return reports


def _simulation(config: RunConfig) -> RunOutcome:
    from tasks.networks.threads import limit_threads

    limit_threads(config.runtime.get("threads"))
    progress = _checked(config)
    return execute(InProcessGrid(config.site_data), config, progress)


def _checked(config: RunConfig) -> Progress:
    """Read every simulated site, and show what its operator should know."""
    reports = check_sites(config)
    can_choose(reports, config)
    progress = Progress(config)
    for report in reports[:20]:
        for note in report.notes:
            progress.say(f"  {report.name}: {note}")
    return progress


def _ray(config: RunConfig) -> RunOutcome:
    for name, value in QUIET_RAY.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: F401
        from flwr.simulation import run_simulation
    except ImportError:
        raise ConfigError("runtime=ray needs Ray: pip install 'fedleague[ray]'") from None
    _check_cores(config)
    progress = _checked(config)
    outcomes: list[RunOutcome] = []
    failures: list[FedleagueError] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        write_simulated_sites(context.run_id, config)
        try:
            outcomes.append(execute(grid, config, progress))
        except FedleagueError as error:
            failures.append(error)

    resources = {
        "num_cpus": config.runtime["cpus_per_client"],
        "num_gpus": config.runtime["gpus_per_client"],
    }
    # Errors still show; Flower's notice that run_simulation is deprecated does not.
    quieten(logging.ERROR)
    run_simulation(
        server,
        load_client_app(CLIENT_APP),
        num_supernodes=len(config.site_data),
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


def _check_cores(config: RunConfig) -> None:
    """Refuse what would leave Ray without a single client; a cluster may have more cores."""
    wanted, cores = float(config.runtime["cpus_per_client"]), os.cpu_count() or 1
    if not wanted > 0:
        raise ConfigError(f"runtime.cpus_per_client must be above 0, got {wanted:g}")
    if wanted > cores and "RAY_ADDRESS" not in os.environ:
        raise ConfigError(f"runtime.cpus_per_client is {wanted:g}, this machine has {cores} cores")


def _deployment(config: RunConfig) -> RunOutcome:
    from fl_server.superlink.serve import LinkConfig, superlink

    runtime = dict(config.runtime)

    def path(key: str) -> Path | None:
        return Path(str(runtime[key])) if runtime.get(key) else None

    link = LinkConfig(
        host=str(runtime["host"]),
        port=int(runtime["port"]),
        certificate=path("certificate"),
        private_key=path("private_key"),
        ca=path("ca"),
        insecure=bool(runtime["insecure"]),
        node_keys=tuple(Path(str(key)) for key in runtime["node_keys"]),
        open_enrolment=bool(runtime["open_enrolment"]),
    )
    with superlink(link) as grid:
        return execute(grid, config)
