"""``fl-server``: compose with Hydra, freeze, launch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fl_common.cli_errors import as_hydra_reads, explained, friendly_errors, stopped_by_signals
from fl_common.errors import ConfigError, FedleagueError
from fl_common.logs import quieten
from fl_common.own_packages import bind_own_packages
from fl_common.terminal import print_version

if TYPE_CHECKING:
    from fl_server.config.run_config import RunConfig
    from fl_server.observers.multirun import JobEnd

_failures: list[FedleagueError] = []
_jobs: list[JobEnd] = []


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="server")
def _run(config: DictConfig) -> float | None:
    """Run one job; what Hydra's sweepers choose by is the return value.

    It is the final round's validation score, and None without validation rows: the best of many
    jobs on the rows that are scored would be a score that is too good.
    """
    from fl_server.config.compose import keys_given, strategy_name, with_shipped
    from fl_server.config.run_config import freeze
    from fl_server.observers.multirun import announce

    job = HydraConfig.get()
    folder = Path(job.runtime.output_dir)
    overrides = list(job.overrides.task)
    number = job.job.num if job.mode == RunMode.MULTIRUN else None
    if number is not None:
        announce(number, overrides)

    def compose() -> RunConfig:
        name = strategy_name(job.runtime.choices.get("strategy"), overrides)
        run = freeze(config, folder, name, keys_given(overrides))
        return with_shipped(run, job.runtime.choices.get("usecase"))

    ended = _finish(compose, folder, overrides, number or 0)
    if number is not None:
        _jobs.append(ended)
    return ended.objective


def _finish(
    compose: Callable[[], RunConfig], folder: Path, overrides: list[str], number: int = 0
) -> JobEnd:
    """Run what is composed to its end; a failure is kept for ``main``.

    Hydra announces whatever a job raises on stderr.
    """
    from fl_server.config.run_folder import CONFIG
    from fl_server.observers.multirun import JobEnd
    from fl_server.results.scoring import final_round
    from fl_server.runtimes.launch import launch

    ended = JobEnd(number, tuple(overrides), folder)
    known = (folder / CONFIG).exists()
    try:
        run = compose()
        outcome = launch(run)
    except FedleagueError as error:
        if not known:
            _remove_if_empty(folder)
        _failures.append(error)
        return replace(ended, reason=" ".join(str(error).split()))
    if outcome.failure:
        _failures.append(
            FedleagueError(f"{outcome.failure}; {folder} holds the model as submitted")
        )
    final = final_round(outcome.rounds, run.usecase.score)
    return replace(
        ended,
        baseline=outcome.rounds[0].score,
        final=final.score,
        objective=final.validation_score,
        reason=outcome.failure,
    )


def _resumed(arguments: list[str]) -> tuple[Path, list[str]] | None:
    """Return the folder that ``resume=FOLDER`` names, and the other overrides."""
    folder = None
    others = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "resume" and value.lower() not in ("true", "false", "null", ""):
            folder = Path(value)
        else:
            others.append(argument)
    if folder is None or {"--help", "-h", "--hydra-help", "--info", "-i"} & set(others):
        return None
    if flags := [text for text in others if text.startswith("-")]:
        raise ConfigError(f"resume={folder} continues one run as it is; leave out {flags[0]}")
    return folder, others


def main() -> None:
    """Entry point of ``fl-server``."""
    bind_own_packages()
    from fl_server.config.compose import known_options
    from fl_server.config.run_config import RENAMED
    from fl_server.config.run_folder import resumed_run
    from fl_server.observers.multirun import print_summary

    # A strategy of one's own is a module in this folder; last, so that it shadows nothing.
    sys.path.append(os.getcwd())
    # Hydra prints its own tracebacks and exits with 1 unless asked to raise.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    quieten()
    _failures.clear()
    _jobs.clear()
    started = time.time()
    with friendly_errors("fl-server"), stopped_by_signals():
        if "--version" in sys.argv[1:]:
            print_version()
            return
        sys.argv[1:] = as_hydra_reads(sys.argv[1:], texts=("submission.team",))
        try:
            if (resumed := _resumed(sys.argv[1:])) is not None:
                _finish(partial(resumed_run, *resumed), *resumed)
            else:
                _run()
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            _remove_sweeps_since(started)
            raise explained(error, known_options(sys.argv[1:]), RENAMED) from None
        except ValueError as error:
            if "Config group override" not in str(error):
                raise
            raise explained(error) from None
        except OSError as error:
            raise ConfigError(
                f"{error.filename or 'hydra.run.dir'}: cannot be written ({error.strerror}); "
                "choose another folder with hydra.run.dir=FOLDER"
            ) from None
        if _jobs:
            print_summary(_jobs)
        if _failures:
            raise _failures[0]


def _remove_if_empty(folder: Path) -> None:
    """Leave nothing behind when a run could not start."""
    from fl_server.config.run_folder import CONFIG

    if folder.is_dir() and [path.name for path in folder.iterdir()] == [CONFIG]:
        (folder / CONFIG).unlink()
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
