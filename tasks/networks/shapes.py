"""Refuse weights that are not a model's own, in the same words for every network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fl_common.errors import ReplyError
from tasks.contract import Array, Arrays


def require_names(arrays: Arrays, expected: Mapping[str, Any]) -> None:
    """Raise ReplyError unless ``arrays`` are named as expected; names a few of many weights."""
    if arrays.keys() != expected.keys():
        wrong = sorted(arrays.keys() ^ expected.keys())
        raise ReplyError(
            f"{len(wrong)} weights are missing or surplus ({', '.join(wrong[:3])}, ...); "
            "use the architecture and classes of the use case"
        )


def require_shape(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise ReplyError unless an array has this shape and dtype."""
    if array.shape != shape or array.dtype != dtype:
        raise ReplyError(
            f"weight '{name}' is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}"
        )
