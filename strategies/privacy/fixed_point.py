"""Summands as whole numbers modulo 2^64, which can be masked and still add up.

=========  ============================  =======================  ==========================
kind       words for a value x           range of x               largest error of the sum
=========  ============================  =======================  ==========================
count      x                             +-2^62 / N               0: exact
weight     round(2^24 x)                 +-2^38 / N               N 2^-25
sum        h = round(2^-40 x),           +-2^102 / N              N 2^-51, and the rounding of
           m = round(x - 2^40 h),                                 float64
           round(2^50 (x - 2^40 h - m))
=========  ============================  =======================  ==========================

N is the number of sites; outside the range a site refuses, so that no sum ever wraps around.

A mean of models divides the middle line by the sum of the sites' weights, which is at least N: the
error of the mean is at most 2^-25, half a unit in the last place of a float32 at 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import EgressError
from tasks.contract import Arrays

COUNT, WEIGHT, SUM = "count", "weight", "sum"
WORDS = {COUNT: 1, WEIGHT: 1, SUM: 3}
WEIGHT_BITS, HIGH_BITS, LOW_BITS, HEADROOM_BITS = 24, 40, 50, 62
MAX_SITES = 2**13
"""So that the low words of as many sums stay within 2^62."""
Words = NDArray[np.uint64]
Layout = dict[str, tuple[int, ...]]
"""``kind:name`` to shape; the vector follows the sorted keys."""


def layout_of(summands: Mapping[str, Any]) -> Layout:
    """Return the layout of named summands (``kind:name``)."""
    return {key: tuple(np.shape(summands[key])) for key in sorted(summands)}


def num_words(layout: Layout) -> int:
    """Return the length of the vector."""
    return sum(WORDS[kind_of(key)] * math.prod(shape) for key, shape in layout.items())


def kind_of(key: str) -> str:
    """Return the kind in ``kind:name``."""
    return key.partition(":")[0]


def to_words(summands: Arrays, num_sites: int) -> Words:
    """Encode a site's summands as one vector.

    Parameters
    ----------
    num_sites : int
        How many vectors will be added at most.

    Raises
    ------
    EgressError
        If a value is not finite, or so large that the sum might wrap around.
    """
    if not 0 < num_sites <= MAX_SITES:
        raise EgressError(f"a masked sum takes 1 to {MAX_SITES} sites, got {num_sites}")
    parts = []
    for key in sorted(summands):
        kind, values = kind_of(key), summands[key].ravel()
        if kind == COUNT:
            parts.append(_whole(values.astype(np.int64), num_sites, key))
        elif kind == WEIGHT:
            scaled = np.rint(values.astype(np.float64) * 2.0**WEIGHT_BITS)
            parts.append(_whole(scaled, num_sites, key))
        else:
            high = np.rint(values.astype(np.float64) / 2.0**HIGH_BITS)
            parts.append(_whole(high, num_sites, key))
            rest = values - high * 2.0**HIGH_BITS
            middle = np.rint(rest)
            for part in (middle, np.rint((rest - middle) * 2.0**LOW_BITS)):
                parts.append(part.astype(np.int64).view(np.uint64))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def from_words(words: Words, layout: Layout) -> Arrays:
    """Decode the sum of the sites' vectors; counts are int64, all else float64."""
    signed, start = words.view(np.int64), 0
    summed: Arrays = {}
    for key, shape in layout.items():
        kind, size = kind_of(key), math.prod(shape)
        values: NDArray[Any] = signed[start : start + size]
        start += size
        if kind == WEIGHT:
            values = values / 2.0**WEIGHT_BITS
        elif kind == SUM:
            middle = signed[start : start + size]
            low = signed[start + size : start + 2 * size]
            values = values * 2.0**HIGH_BITS + (middle + low / 2.0**LOW_BITS)
            start += 2 * size
        summed[key] = np.array(values).reshape(shape)
    return summed


def _whole(values: NDArray[Any], num_sites: int, key: str) -> Words:
    limit = 2.0**HEADROOM_BITS / num_sites
    if not (np.abs(values.astype(np.float64)) < limit).all():
        raise EgressError(f"'{key}' is not finite, or too large for a sum over {num_sites} sites")
    return values.astype(np.int64).view(np.uint64)
