"""Simulated sites as the text that a site's client reads in place of ``site.yaml``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fl_common.plugins import plugin_packages
from fl_server.config.run_config import RunConfig
from strategies.simulated import simulated_sites_file


def simulated_site(site: Mapping[str, Any]) -> str:
    """Return a simulated site as the JSON text that ``fl_client.site_lookup`` reads."""
    policy = {
        "min_rows": 1,
        "min_subgroup_rows": 1,
        "custom_code": True,
        "plugins": plugin_packages(),
    }
    return json.dumps({"policy": policy, **site}, sort_keys=True)


def write_simulated_sites(run_id: int, config: RunConfig) -> None:
    """Leave the sites where client apps of Flower's simulation engine look for them."""
    path = simulated_sites_file(run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text("\n".join(simulated_site(site) for site in config.site_data), encoding="utf-8")
