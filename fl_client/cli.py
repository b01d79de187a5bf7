"""``fl-client``: read the site's file, check its data, stay connected."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_common.cli_errors import as_hydra_reads, explained, friendly_errors
from fl_common.errors import ConfigError, FedleagueError
from fl_common.logs import log_to_terminal, quieten
from fl_common.own_packages import bind_own_packages
from fl_common.terminal import print_version
from fl_common.validation import Count, Flag, FrozenModel, Positive, Text, keys_of, validated


class ClientConfig(FrozenModel):
    """What the command line of ``fl-client`` says (``conf/client.yaml``)."""

    site: Text
    server: Text
    ca: Text | None = None
    key: Text | None = None
    insecure: Flag = False
    max_wait_seconds: Positive | None = None
    threads: Count | None = None


_failures: list[FedleagueError] = []


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="client")
def _run(config: DictConfig) -> None:
    try:
        raw: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            config, resolve=True, throw_on_missing=True
        )
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        why = f"{key} must be given" if key else " ".join(str(error).split())
        _failures.append(ConfigError(f"{why}: fl-client site=site.yaml server=HOST:PORT"))
        return
    if isinstance(raw["site"], int):  # Hydra reads a name of digits as a number
        raw["site"] = str(raw["site"])
    try:
        _serve(validated(ClientConfig, raw))
    except FedleagueError as error:
        # Hydra announces whatever a job raises on stderr; ``main`` raises it instead.
        _failures.append(error)


def _serve(config: ClientConfig) -> None:
    from fl_client.app import app
    from fl_client.link.node import NodeConfig, run_node
    from fl_client.policy.site import read_site
    from fl_client.site_lookup import SITE_FILE
    from tasks.networks.threads import limit_threads

    limit_threads(config.threads)
    path = Path(config.site).resolve()
    site = read_site(path)
    for file in (site.source.train, site.source.validation, site.source.holdout):
        # Pictures are a folder, or a file that lists them.
        if file and not file.startswith("dataset:") and not Path(file).exists():
            raise ConfigError(f"{path}: data file {file} does not exist")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node = NodeConfig(
        server=config.server,
        ca=Path(config.ca) if config.ca else None,
        insecure=config.insecure,
        private_key=Path(config.key) if config.key else None,
        max_wait_seconds=config.max_wait_seconds,
        node_config={SITE_FILE: str(path)},
    )
    _say(f"site '{site.name}': data and policy from {path}")
    run_node(node, app, stop=stop, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Entry point of ``fl-client``."""
    bind_own_packages()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    log_to_terminal()
    quieten()
    _failures.clear()
    with friendly_errors("fl-client"):
        if "--version" in sys.argv[1:]:
            print_version()
            return
        sys.argv[1:] = as_hydra_reads(sys.argv[1:])
        try:
            _run()
        except (HydraException, OmegaConfBaseException) as error:
            raise explained(error, keys_of(ClientConfig)) from None
        if _failures:
            raise _failures[0]


if __name__ == "__main__":
    main()
