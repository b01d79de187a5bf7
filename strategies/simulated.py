"""How a simulation tells its client apps which site they stand for; real sites never ask here.

Our own engine says it in the node's configuration (``SITE_JSON``). The client apps of Flower's run
in other processes and know only a partition id, so the server writes one JSON site a line before
its first message.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SITE_JSON = "site-json"


def simulated_sites_file(run_id: int) -> Path:
    """Return the file of a run, in a folder that only this user can write."""
    return Path(tempfile.gettempdir()) / f"fedleague-{os.getuid()}" / f"sites-{run_id}.jsonl"
