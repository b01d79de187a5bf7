"""Snapshot of a strategy's server-side state, so that a killed run resumes identically.

Works on any ``flwr.serverapp.strategy.Strategy``: what changes between rounds there are plain
attributes that hold arrays (momentum, second moments, the last weights) or numbers. Arrays go to
safetensors, numbers to JSON; nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from strategies.messages import pack_arrays, unpack_arrays
from tasks.contract import Arrays
from tasks.errors import CheckpointError

SEPARATOR = "::"
_RECORD, _LIST = "record", "list"


def snapshot(strategy: Strategy) -> tuple[Arrays, dict[str, Any]]:
    """Return the strategy's arrays (``attribute::kind::key``) and numbers (``attribute``).

    A wrapped strategy's attributes (Flower's differential privacy) are prefixed ``strategy.``.
    Attributes that a class lists in ``transient`` mean something only within a round.
    """
    arrays: Arrays = {}
    numbers: dict[str, Any] = {}
    transient = getattr(strategy, "transient", ())
    for attribute, value in vars(strategy).items():
        if attribute in transient:
            continue
        if isinstance(value, Strategy):
            inner_arrays, inner_numbers = snapshot(value)
            arrays |= {f"{attribute}.{name}": a for name, a in inner_arrays.items()}
            numbers |= {f"{attribute}.{name}": n for name, n in inner_numbers.items()}
        elif isinstance(value, bool | int | float | str) or value is None:
            numbers[attribute] = value
        else:
            arrays |= {f"{attribute}{SEPARATOR}{k}": a for k, a in _named_arrays(value).items()}
    return arrays, numbers


def restore(strategy: Strategy, arrays: Arrays, numbers: Mapping[str, Any]) -> None:
    """Put a snapshot back into a strategy of the same class.

    Raises
    ------
    CheckpointError
        If the snapshot holds an attribute that this strategy does not have.
    """
    values: dict[str, Any] = dict(numbers)
    for name, array in arrays.items():
        attribute, kind, key = name.split(SEPARATOR, 2)
        values.setdefault(attribute, (kind, {}))[1][key] = array
    for path, value in values.items():
        owner: Any = strategy
        *outer, attribute = path.split(".")
        for name in outer:
            owner = getattr(owner, name, None)
        if not hasattr(owner, attribute):
            raise CheckpointError(
                f"checkpoint holds '{path}', which {type(strategy).__name__} lacks; "
                "resume with the strategy that started the run"
            )
        setattr(owner, attribute, _rebuilt(*value) if isinstance(value, tuple) else value)


def forget_paired(strategy: Strategy) -> list[str]:
    """Drop the state that mirrors the sites' memories (``paired``); return its names.

    A control variate is the mean of the sites' own: where these are lost, it would pull every
    later round towards a wrong point, so that both sides must start anew.
    """
    paired = [name for name in getattr(strategy, "paired", ()) if hasattr(strategy, name)]
    for name in paired:
        setattr(strategy, name, None)
    for value in vars(strategy).values():
        if isinstance(value, Strategy):
            paired += forget_paired(value)
    return paired


def _named_arrays(value: Any) -> Arrays:
    """Flatten what Flower's strategies keep: an array, a list or dict of them, a record."""
    if isinstance(value, np.ndarray):
        return {f"array{SEPARATOR}": value}
    if isinstance(value, ArrayRecord):
        return {f"{_RECORD}{SEPARATOR}{k}": a for k, a in unpack_arrays(value).items()}
    if isinstance(value, list) and value and all(isinstance(a, np.ndarray) for a in value):
        return {f"{_LIST}{SEPARATOR}{i}": a for i, a in enumerate(value)}
    kinds = np.ndarray | np.generic
    if isinstance(value, dict) and value and all(isinstance(a, kinds) for a in value.values()):
        return {f"dict{SEPARATOR}{k}": np.asarray(a) for k, a in value.items()}
    return {}


def _rebuilt(kind: str, named: Arrays) -> Any:
    if kind == "array":
        return named[""]
    if kind == _RECORD:
        return pack_arrays(named)
    if kind == _LIST:
        return [named[str(i)] for i in range(len(named))]
    return named
