"""``fl-client``: read the site's file, check its data, stay connected."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasks.errors import ConfigError
from tasks.exits import friendly_errors


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="client")
def _run(config: DictConfig) -> None:
    try:
        raw: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            config, resolve=True, throw_on_missing=True
        )
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "an option"
        raise ConfigError(
            f"{key} must be given: fl-client site=site.yaml server=HOST:PORT"
        ) from None
    _serve(raw)


def _serve(raw: dict[str, Any]) -> None:
    from fl_client.app import app
    from fl_client.node import NodeConfig, run_node
    from fl_client.site import read_site
    from tasks.torch_runtime import limit_threads

    limit_threads(raw["threads"])
    path = Path(raw["site"]).resolve()
    site = read_site(path)
    for file in (site.source.train, site.source.holdout):
        if file and not file.startswith("dataset:") and not Path(file).is_file():
            raise ConfigError(f"{path}: data file {file} does not exist")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node = NodeConfig(
        server=str(raw["server"]),
        ca=_path(raw["ca"]),
        insecure=bool(raw["insecure"]),
        private_key=_path(raw["key"]),
        max_wait_seconds=raw["max_wait_seconds"],
        node_config={"site": str(path)},
    )
    _say(f"site '{site.name}': data and policy from {path}")
    run_node(node, app, stop=stop, say=_say)


def _say(line: str) -> None:
    print(line, flush=True)


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def main() -> None:
    """Entry point of ``fl-client``."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    with friendly_errors("fl-client"):
        try:
            _run()
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(" ".join(str(error).split())) from None


if __name__ == "__main__":
    main()
