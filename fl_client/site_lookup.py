"""Find the site that a Flower context stands for.

Three ways, all of them the operator's, none the server's:

- ``node_config["site"]`` is the path of ``site.yaml`` (``fl-client``, ``flower-supernode``);
- ``node_config["site-json"]`` describes it inline (our in-process simulation);
- ``node_config["partition-id"]`` (Flower's own simulation engine) picks a line of the file that
  the simulation wrote for this run.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from fl_client.policy.site import SiteConfig, read_site, site_from_json
from fl_common.errors import ConfigError
from strategies.simulated import SITE_JSON, simulated_sites_file

SITE_FILE, PARTITION = "site", "partition-id"


def site_of(context: Context) -> SiteConfig:
    """Return the site of this node.

    Raises
    ------
    ConfigError
        If the node was started without one.
    """
    config = context.node_config
    if SITE_FILE in config:
        return _read_cached(str(config[SITE_FILE]))
    if SITE_JSON in config:
        return site_from_json(str(config[SITE_JSON]))
    if PARTITION in config:
        lines = _simulated(context.run_id)
        return site_from_json(lines[int(config[PARTITION]) % len(lines)])
    raise ConfigError(
        "this node has no site; start fl-client site=PATH/site.yaml, or flower-supernode "
        "--node-config 'site=\"PATH/site.yaml\"'"
    )


@lru_cache(maxsize=256)
def _read_cached(path: str) -> SiteConfig:
    return read_site(Path(path))


@lru_cache(maxsize=8)
def _simulated(run_id: int) -> list[str]:
    path = simulated_sites_file(run_id)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; the simulation's server writes it at its start")
    for owned in (path.parent, path):
        if owned.stat().st_uid != os.getuid():
            raise ConfigError(f"{owned}: belongs to another user; remove it")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise ConfigError(f"{path}: names no site; the simulation's server writes it at its start")
    return lines
