"""Client updates by name: the only code that a server can ask a site to run.

A plugin's strategy has its client update, ``local_update``, in the module of its entry point.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import cast

from fl_common.errors import PolicyError
from fl_common.plugins import find_plugin
from strategies.local import ClientUpdate
from strategies.personal import Personalise

CLIENT_UPDATES = {
    name: f"strategies.{name}:local_update"
    for name in (
        "fedavg",
        "scaffold",
        "feddyn",
        "fedlc",
        "fedbn",
        "fedper",
        "ditto",
        "qfedavg",
        "xgb_bagging",
        "xgb_cyclic",
    )
}
DEFAULT = "fedavg"
_FLOWER_TREES = {"FedXgbBagging": "xgb_bagging", "FedXgbCyclic": "xgb_cyclic"}


def client_update_name(strategy: object) -> str:
    """Return the name of a server update's client update; plain local training if it names none."""
    default = _FLOWER_TREES.get(type(strategy).__name__, DEFAULT)
    return str(getattr(strategy, "client_update", default))


@lru_cache
def client_update(name: str, custom_code: bool = False) -> ClientUpdate:
    """Load a client update.

    Parameters
    ----------
    name : str
        A name in ``CLIENT_UPDATES`` or of an installed plugin (which the site's policy was asked
        for before), or ``module:function`` for a researcher's own.
    custom_code : bool
        Whether the site allows code outside this package (it must be installed at the site).

    Raises
    ------
    PolicyError
        If the name is unknown, or names code that the site does not allow.
    """
    module, _, function = _path(name, custom_code).partition(":")
    try:
        return cast(ClientUpdate, getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise PolicyError(
            f"client update '{name}' is not installed at this site: {error}"
        ) from error


@lru_cache
def personaliser(name: str, custom_code: bool = False) -> Personalise | None:
    """Return ``personalise(arrays, state)`` of a client update's module, if it offers one.

    None also where the update may not run here: a site that never trained has no own model.
    """
    try:
        module = importlib.import_module(_path(name, custom_code).partition(":")[0])
    except (PolicyError, ImportError):
        return None
    return cast("Personalise | None", getattr(module, "personalise", None))


def _path(name: str, custom_code: bool) -> str:
    path = CLIENT_UPDATES.get(name)
    if path is not None:
        find_plugin("strategies", name, CLIENT_UPDATES)  # refuses one of this name
    if path is not None:
        return path
    if ":" not in name:
        if (plugin := find_plugin("strategies", name)) is not None:
            return f"{plugin.module}:local_update"
        raise PolicyError(
            f"strategy '{name}' has no client update here; known: {sorted(CLIENT_UPDATES)}"
        )
    if not custom_code:
        raise PolicyError(f"'{name}' is custom code; to allow it set policy.custom_code: true")
    return name
