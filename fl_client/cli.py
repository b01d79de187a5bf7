"""``fl-client``: read the site's file, check its data, stay connected."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fl_common.cli_errors import explained, friendly_errors
from fl_common.errors import ConfigError, FedleagueError
from fl_common.logs import log_to_terminal, quieten

CLIENT_KEYS = ("site", "server", "ca", "key", "insecure", "max_wait_seconds", "threads")

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
    try:
        _serve(raw)
    except FedleagueError as error:
        # Hydra announces whatever a job raises on stderr; ``main`` raises it instead.
        _failures.append(error)


def _serve(raw: dict[str, Any]) -> None:
    from fl_client.app import app
    from fl_client.link.node import NodeConfig, run_node
    from fl_client.policy.site import read_site
    from tasks.networks.threads import limit_threads

    threads, wait = _threads(raw["threads"]), _wait(raw["max_wait_seconds"])
    if not isinstance(raw["insecure"], bool):
        raise ConfigError(f"insecure must be true or false, got {raw['insecure']!r}")
    limit_threads(threads)
    path = Path(str(raw["site"])).resolve()
    site = read_site(path)
    for file in (site.source.train, site.source.validation, site.source.holdout):
        # Pictures are a folder, or a file that lists them.
        if file and not file.startswith("dataset:") and not Path(file).exists():
            raise ConfigError(f"{path}: data file {file} does not exist")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node = NodeConfig(
        server=str(raw["server"]),
        ca=_path(raw["ca"]),
        insecure=raw["insecure"],
        private_key=_path(raw["key"]),
        max_wait_seconds=wait,
        node_config={"site": str(path)},
    )
    _say(f"site '{site.name}': data and policy from {path}")
    run_node(node, app, stop=stop, say=_say)


def _threads(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ConfigError(f"threads must be a whole number from 1, or null, got {value!r}")
    return value


def _wait(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and value > 0):
        raise ConfigError(f"max_wait_seconds must be a number above 0, or null, got {value!r}")
    return None if value is None else float(value)


def _say(line: str) -> None:
    print(line, flush=True)


def _path(value: Any) -> Path | None:
    return Path(str(value)) if value else None


def main() -> None:
    """Entry point of ``fl-client``."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    log_to_terminal()
    quieten()
    _failures.clear()
    with friendly_errors("fl-client"):
        try:
            _run()
        except (HydraException, OmegaConfBaseException) as error:
            raise explained(error, CLIENT_KEYS) from None
        if _failures:
            raise _failures[0]


if __name__ == "__main__":
    main()
