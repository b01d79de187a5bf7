"""What a score was measured on: only runs of equal evaluations are ranked together.

An evaluation is plain values by name: the task, its schema, the score, the data and how sites and
held-out rows were cut from it. How a model was trained (model, strategy, rounds, seed, learning
rate) is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fl_server.config.run_config import RunConfig
from fl_server.config.usecase import UseCaseInfo

SITES = "sites"
"""The sites' names and held-out rows: known once they are admitted; a consequence of the rest."""
CHOOSING = ("validation", "validation_fraction")
"""Taken from the training rows: they choose a model; the rows that score it stay the same."""

Evaluation = Mapping[str, Any]


@dataclass(frozen=True)
class ShippedUseCase:
    """A use case as its YAML has it, without a run's overrides."""

    info: UseCaseInfo
    evaluation: dict[str, Any]


def evaluation_of(config: RunConfig, sites: Iterable[Any] = ()) -> dict[str, Any]:
    """Return what a run of ``config`` is evaluated on, as plain values by name.

    Parameters
    ----------
    config : RunConfig
    sites : iterable of rounds.sites.Site
        The admitted sites; without any, the part is left out.
    """
    score = config.usecase.score
    parts: dict[str, Any] = {
        "task": config.usecase.task,
        "schema": dict(config.schema),
        "score": {"name": score.name, "direction": score.direction},
        "split_seed": config.split_seed,
        "data": "held by the sites",
    }
    described = {str(site["name"]): dict(site["data"]) for site in config.site_data}
    for key in sorted({k for data in described.values() for k in data} - set(CHOOSING)):
        values = {name: _without_index(data.get(key)) for name, data in described.items()}
        first, *others = values.values()
        same = all(value == first for value in others)
        parts["data" if key == "train" else key] = first if same else values
    rows = {site.name: site.num_holdout for site in sites}
    if rows:
        parts[SITES] = rows
    plain: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return {name: value for name, value in plain.items() if value is not None}


def fingerprint_of(evaluation: Evaluation) -> str:
    """Return a text that is equal for equal evaluations only."""
    return hashlib.sha256(json.dumps(evaluation, sort_keys=True).encode()).hexdigest()


def agrees(evaluation: Evaluation, reference: Evaluation) -> bool:
    """Say whether an evaluation is the reference's, whose sites and rows may not be known yet.

    Where nothing is known, any is.
    """
    return not reference or not differing(evaluation, {**reference, SITES: evaluation.get(SITES)})


def differing(evaluation: Evaluation, reference: Evaluation) -> list[str]:
    """Name the parts in which two evaluations differ, such as ``holdout_fraction``.

    Other sites or rows are named where nothing else differs: the rest explains them.
    """
    names = [
        _named(name, evaluation.get(name), reference.get(name))
        for name in sorted(evaluation.keys() | reference.keys())
        if name != SITES and evaluation.get(name) != reference.get(name)
    ]
    return names or [SITES] * (evaluation.get(SITES) != reference.get(SITES))


def _named(name: str, mine: Any, other: Any) -> str:
    """Name a part, and of a mapping the keys that differ."""
    if not isinstance(mine, dict) or not isinstance(other, dict):
        return name
    keys = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
    return f"{name} ({', '.join(keys)})"


def _without_index(value: Any) -> Any:
    """Leave out which of a table's sites one is."""
    if isinstance(value, Mapping) and "num_sites" in value:
        return {key: item for key, item in value.items() if key != "index"}
    return value
