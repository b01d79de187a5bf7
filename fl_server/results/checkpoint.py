"""The run's state after its last finished round: one file, replaced atomically.

A safetensors file holds the model (``model/``) and the strategy's arrays (``strategy/``); its
metadata holds everything else as JSON, and a checksum over both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fl_common.errors import CheckpointError, FileWriteError
from fl_common.files import arrays_checksum, write_atomically
from fl_server.results.records import RoundRecord, SiteRecord
from tasks.contract import Arrays
from tasks.scores import ScoreCard, Scores

FILE_NAME = "checkpoint.safetensors"
MODEL, STRATEGY, BEST, SITES = "model/", "strategy/", "best/", "sites/"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the next round depends on.

    Parameters
    ----------
    fingerprint : str
        What must not change between a run and its resumption.
    best : dict of str to array or None
        The best model so far by the validation rows, where there are some.
    run : str
        Under which name the sites remember the run.
    site_memory : dict of str to array
        What simulated sites remember between rounds; empty where the sites are real.
    """

    fingerprint: str
    fitted: Mapping[str, Any]
    rounds: tuple[RoundRecord, ...]
    model: Arrays
    strategy_arrays: Arrays = field(default_factory=dict)
    strategy_numbers: Mapping[str, Any] = field(default_factory=dict)
    best: Arrays | None = None
    site_memory: Arrays = field(default_factory=dict)
    run: str = ""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; the previous one stays until the new one is whole on disk.

    Raises
    ------
    CheckpointError
        If the disk is full or the folder cannot be written.
    """
    arrays = {f"{MODEL}{k}": a for k, a in checkpoint.model.items()}
    arrays |= {f"{STRATEGY}{k}": a for k, a in checkpoint.strategy_arrays.items()}
    arrays |= {f"{BEST}{k}": a for k, a in (checkpoint.best or {}).items()}
    arrays |= {f"{SITES}{k}": a for k, a in checkpoint.site_memory.items()}
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items()}
    state = {
        "fingerprint": checkpoint.fingerprint,
        "run": checkpoint.run,
        "fitted": checkpoint.fitted,
        "rounds": [_plain(record) for record in checkpoint.rounds],
        "strategy": checkpoint.strategy_numbers,
        "order": list(arrays),
    }
    text = json.dumps(state)
    metadata = {"state": text, "sha256": arrays_checksum(text, arrays)}
    try:
        write_atomically(folder / FILE_NAME, save(arrays, metadata=metadata))
    except FileWriteError as error:
        raise CheckpointError(
            f"{error}; once that is mended, continue with fl-server resume={folder}"
        ) from None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read the checkpoint of a run folder.

    Raises
    ------
    CheckpointError
        If there is none, or it is damaged.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no checkpoint to resume from; give resume=FOLDER of a run that "
            "finished at least its baseline, or start it anew"
        )
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
            state = json.loads(metadata["state"])
            # safetensors sorts names, but some of Flower's strategies go by position
            arrays = {name: file.get_tensor(name) for name in state["order"]}
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); delete it and start anew") from None
    if arrays_checksum(metadata["state"], arrays) != metadata.get("sha256"):
        raise CheckpointError(f"{path}: damaged (checksum differs); delete it and start anew")
    best = _below(arrays, BEST)
    return Checkpoint(
        fingerprint=state["fingerprint"],
        fitted=state["fitted"],
        rounds=tuple(_round(raw) for raw in state["rounds"]),
        model=_below(arrays, MODEL),
        strategy_arrays=_below(arrays, STRATEGY),
        strategy_numbers=state["strategy"],
        best=best or None,
        site_memory=_below(arrays, SITES),
        run=state.get("run", ""),
    )


def _plain(record: RoundRecord) -> dict[str, Any]:
    """Do as ``asdict`` does, without copying the values of thousands of sites at every round."""
    sites = [vars(site) for site in record.sites]
    return {**vars(record), "card": asdict(record.card), "sites": sites}


def _below(arrays: Mapping[str, Any], prefix: str) -> Arrays:
    return {name[len(prefix) :]: a for name, a in arrays.items() if name.startswith(prefix)}


def _round(raw: dict[str, Any]) -> RoundRecord:
    card = raw["card"]
    raw["card"] = ScoreCard(
        overall=Scores(**card["overall"]),
        subgroups={name: Scores(**scores) for name, scores in card["subgroups"].items()},
        blocks={name: Scores(**scores) for name, scores in card["blocks"].items()},
        attributions=card["attributions"],
    )
    raw["sites"] = tuple(SiteRecord(**site) for site in raw["sites"])
    return RoundRecord(**raw)
