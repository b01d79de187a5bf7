"""Our packages, whatever the working folder holds: a ``conf/`` or ``tasks/`` there is another's."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

NAMES = ("conf", "fl_client", "fl_server", "strategies", "tasks")


def bind_own_packages() -> None:
    """Import our top-level packages from beside this one, before the working folder is searched.

    They have common names, and every Hydra user has a folder ``conf``: an editable install's
    finder comes after the search path, so that even a folder without ``__init__.py`` would win.
    """
    root = str(Path(__file__).resolve().parents[1])
    sys.path.insert(0, root)
    try:
        for name in NAMES:
            import_module(name)
    finally:
        sys.path.remove(root)
