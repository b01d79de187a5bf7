"""Arithmetic on named arrays; integer arrays (a count of batches) pass through unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.contract import Arrays

STATISTICS = ("running_mean", "running_var")
"""What PyTorch's normalisation layers call the statistics that no gradient moves."""


def statistics(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return the running statistics of normalisation layers among ``arrays``.

    They are estimates, not weights: only their mean over sites means anything. A step past it
    (momentum, Adam, a correction) can make a variance negative.
    """
    return {name: a for name, a in arrays.items() if name.rpartition(".")[2] in STATISTICS}


def zeros_like(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return zeros of the same names, shapes and dtypes."""
    return {name: np.zeros_like(array) for name, array in arrays.items()}


def added(
    arrays: Mapping[str, NDArray[Any]], scale: float, other: Mapping[str, NDArray[Any]]
) -> Arrays:
    """Return ``arrays + scale * other`` in the dtypes of ``arrays``."""
    return {
        name: np.asarray(array + scale * other[name]).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in arrays.items()
    }


def difference(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> Arrays:
    """Return ``left - right``; zero for integer arrays."""
    return {
        name: np.asarray(array - right[name]) if array.dtype.kind == "f" else np.zeros_like(array)
        for name, array in left.items()
    }


def toward(
    arrays: Mapping[str, NDArray[Any]], rate: float, target: Mapping[str, NDArray[Any]]
) -> Arrays:
    """Return ``arrays + rate * (target - arrays)``; integer arrays are the target's."""
    moved = added(arrays, rate, difference(target, arrays))
    return {name: target[name] if a.dtype.kind != "f" else a for name, a in moved.items()}


def squared_norm(arrays: Mapping[str, NDArray[Any]]) -> float:
    """Return the sum of squares over all floating arrays, in float64."""
    return float(
        sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays.values() if a.dtype.kind == "f")
    )
