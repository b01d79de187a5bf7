"""``fl-server``: compose with Hydra, freeze, launch."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_common.cli_errors import explained, friendly_errors, stopped_by_signals
from fl_common.errors import ConfigError, FedleagueError
from fl_common.logs import quieten

_failures: list[FedleagueError] = []


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="server")
def _run(config: DictConfig) -> float | None:
    """Run one job; what Hydra's sweepers choose by is the return value.

    It is the final round's validation score, and None without validation rows: the best of many
    jobs on the rows that are scored would be a score that is too good.
    """
    from fl_common.files import write_atomically
    from fl_server.config.compose import strategy_name, with_shipped
    from fl_server.config.run_config import freeze
    from fl_server.results.scoring import final_round
    from fl_server.runtimes.launch import launch

    quieten()
    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    try:
        name = strategy_name(job.runtime.choices.get("strategy"), list(job.overrides.task))
        run = with_shipped(freeze(config, folder, name), job.runtime.choices.get("usecase"))
        resolved = OmegaConf.to_yaml(config, resolve=True).encode()
        outcome = launch(run)
        write_atomically(folder / "config.yaml", resolved)
    except FedleagueError as error:
        _remove_if_empty(folder)
        # Hydra announces whatever a job raises on stderr; ``main`` raises it instead.
        _failures.append(error)
        return None
    if outcome.failure:
        _failures.append(
            FedleagueError(f"{outcome.failure}; {folder} holds the model as submitted")
        )
    return final_round(outcome.rounds, run.usecase.score).validation_score


def main() -> None:
    """Entry point of ``fl-server``."""
    from fl_server.config.compose import known_options

    # A strategy of one's own is a module in this folder; last, so that it shadows nothing.
    sys.path.append(os.getcwd())
    # Hydra prints its own tracebacks and exits with 1 unless asked to raise.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    quieten()
    _failures.clear()
    started = time.time()
    with friendly_errors("fl-server"), stopped_by_signals():
        try:
            _run()
        except (HydraException, OmegaConfBaseException) as error:
            _remove_sweeps_since(started)
            raise explained(error, known_options(sys.argv[1:])) from None
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            raise explained(error) from None
        except OSError as error:
            raise ConfigError(
                f"{error.filename or 'hydra.run.dir'}: cannot be written ({error.strerror}); "
                "choose another folder with hydra.run.dir=FOLDER"
            ) from None
        if _failures:
            raise _failures[0]


def _remove_if_empty(folder: Path) -> None:
    """Leave nothing behind when a run could not start."""
    sweep = folder.parent / "multirun.yaml"
    here = Path.cwd()
    for path in (folder, *folder.parents):
        if path != folder and here not in path.parents:
            break  # a folder that the user named, or the working folder itself
        if not path.is_dir():
            continue
        if path == sweep.parent and [p.name for p in path.iterdir()] == [sweep.name]:
            sweep.unlink()
        if any(path.iterdir()):
            break
        path.rmdir()


def _remove_sweeps_since(started: float) -> None:
    """Remove the plan that a multirun wrote before one of its jobs proved not to exist."""
    for plan in Path.cwd().glob("runs/*/*/multirun.yaml"):
        if plan.stat().st_mtime >= started - 1:
            _remove_if_empty(plan.parent / "0")


if __name__ == "__main__":
    main()
