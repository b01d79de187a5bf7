"""Snapshot of a strategy's server-side state, so that a killed run resumes identically.

Works on any ``flwr.serverapp.strategy.Strategy``: what changes between rounds there are plain
attributes that hold arrays (momentum, second moments, the last weights) or numbers, texts, and
lists, tuples and dicts of these. Arrays go to safetensors, the rest to JSON; nothing is pickled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fl_common.errors import CheckpointError
from strategies.requirements import own_requirements
from strategies.wire.records import pack_arrays, unpack_arrays
from tasks.contract import Arrays

SEPARATOR = "::"
_RECORD, _LIST, _TUPLE = "record", "list", "tuple::"

log = logging.getLogger("fedleague.server")


def snapshot(strategy: Strategy) -> tuple[Arrays, dict[str, Any]]:
    """Return the strategy's arrays (``attribute::kind::key``) and numbers (``attribute``).

    A wrapped strategy's attributes (Flower's differential privacy) are prefixed ``strategy.``.
    Attributes that its ``Requirements.not_saved`` lists mean something only within a round.
    """
    arrays: Arrays = {}
    numbers: dict[str, Any] = {}
    not_saved = (*own_requirements(strategy).not_saved, "requirements")
    for attribute, value in vars(strategy).items():
        if attribute in not_saved:
            continue
        if isinstance(value, Strategy):
            inner_arrays, inner_numbers = snapshot(value)
            arrays |= {f"{attribute}.{name}": a for name, a in inner_arrays.items()}
            numbers |= {f"{attribute}.{name}": n for name, n in inner_numbers.items()}
        elif named := _named_arrays(value):
            arrays |= {f"{attribute}{SEPARATOR}{k}": a for k, a in named.items()}
        elif _is_plain(value):
            numbers[attribute] = _plain(value)
        elif not callable(value) and not attribute.startswith("_"):
            _warn_once(type(strategy).__name__, attribute, type(value).__name__)
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
        setattr(owner, attribute, _rebuilt(*value) if isinstance(value, tuple) else _real(value))


def forget_tied_to_clients(strategy: Strategy) -> list[str]:
    """Drop the state that mirrors the sites' memories (``tied_to_clients``); return the names.

    A control variate is the mean of the sites' own: where these are lost, it would pull every
    later round towards a wrong point, so that both sides must start anew.
    """
    tied_to_clients = [
        name for name in own_requirements(strategy).tied_to_clients if hasattr(strategy, name)
    ]
    for name in tied_to_clients:
        setattr(strategy, name, None)
    for value in vars(strategy).values():
        if isinstance(value, Strategy):
            tied_to_clients += forget_tied_to_clients(value)
    return tied_to_clients


@lru_cache(maxsize=256)
def _warn_once(strategy: str, attribute: str, kind: str) -> None:
    log.warning(
        "%s.%s (%s) is in no checkpoint: a resumed run starts without it; keep arrays, numbers, "
        "texts, lists or dicts, or name it in Requirements(not_saved=...) of %s",
        *(strategy, attribute, kind, strategy),
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _plain(value: Any) -> Any:
    """Return what JSON keeps; it has neither tuples nor numpy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(item) for item in value]}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _real(value: Any) -> Any:
    """Undo ``_plain``."""
    if isinstance(value, list):
        return [_real(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(_real(item) for item in value[_TUPLE])
    return {key: _real(item) for key, item in value.items()}


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
