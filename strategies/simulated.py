"""Where Flower's own simulation engine finds the sites of a run.

Its client apps run in other processes and know only a partition id, so the server writes one
JSON site a line before its first message. Real sites never read this file.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def simulated_sites_file(run_id: int) -> Path:
    """Return the file of a run, in a folder that only this user can write."""
    return Path(tempfile.gettempdir()) / f"fedleague-{os.getuid()}" / f"sites-{run_id}.jsonl"
