"""Layers that stay at a site: what FedBN and FedPer share, and the personal evaluation.

A client update whose module offers ``personalise(arrays, state)`` is evaluated with the model that
it returns: the site's own. The baseline is evaluated as submitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

from fl_common.errors import ConfigError
from strategies.local import LocalResult, LocalRound
from strategies.site_state import SiteState
from tasks.contract import Arrays, LayeredModel, Model

LAYERS, OWN = "local-layers", "own-layers"
KIND = "kind:"
Personalise = Callable[[Arrays, SiteState], Arrays]
"""From the received model and the site's memory to the site's own model."""


def select_layers(model: Model, names: Iterable[str], selector: str) -> list[str]:
    """Return the weights that a selector names.

    Parameters
    ----------
    selector : str
        Comma-separated parts: ``kind:norm``, ``kind:head`` or ``kind:body`` as the model lists
        its layers, or a pattern of names such as ``classifier.*``.

    Raises
    ------
    ConfigError
        If nothing matches, everything matches, or the model does not list its layers' kinds.
    """
    parts = [part.strip() for part in selector.split(",") if part.strip()]
    kinds = model.layer_kinds() if isinstance(model, LayeredModel) else {}
    if any(part.startswith(KIND) for part in parts) and not kinds:
        raise ConfigError("this model does not list the kinds of its layers; name them by pattern")
    names = list(names)
    chosen = [
        name
        for name in names
        if any(
            kinds.get(name) == part[len(KIND) :]
            if part.startswith(KIND)
            else fnmatchcase(name, part)
            for part in parts
        )
    ]
    if not chosen or len(chosen) == len(names):
        what = "no weight" if not chosen else "every weight"
        raise ConfigError(
            f"strategy.layers={selector!r} keeps {what} of this model local; its weights: "
            + ", ".join(f"{name} ({kinds.get(name, '?')})" for name in names)
        )
    return chosen


def train_keeping_layers(local: LocalRound) -> LocalResult:
    """Train from the received model with the site's own layers in it; keep those layers.

    Privacy: in place of the local layers the server gets back what it sent.
    """
    names = select_layers(local.model, local.received, str(local.config.get(LAYERS, "")))
    local.model.load(personalise(local.received, local.state))
    outcome = local.train()
    local.state.put(OWN, {name: outcome.arrays[name] for name in names})
    shared = outcome.arrays | {name: local.received[name] for name in names}
    return LocalResult(replace(outcome, arrays=shared), {})


def personalise(arrays: Arrays, state: SiteState) -> Arrays:
    """Return the received model with the site's own layers; unchanged before it trained."""
    return arrays | (state.get(OWN) or {})
