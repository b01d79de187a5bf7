"""The ServerApp that Flower's own engines load (``flwr run .``)."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_server.rounds.sites import settled_nodes
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulated_sites import write_simulated_sites

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry for Flower's own engines (``flwr run .``): the run config names the Hydra overrides."""
    from fl_server.config.compose import compose_run

    config = compose_run(context.run_config)
    if config.sources:
        config = compose_run(context.run_config, num_nodes=settled_nodes(grid))
        write_simulated_sites(context.run_id, config)
    execute(grid, config)
