"""Summands: the only thing that leaves a site.

A ``Stats`` is a sparse set of named arrays that mean something only after they are added to the
other sites'. It is a commutative monoid: ``Stats()`` is the zero, ``merge`` the addition, and a
name that one side lacks counts as zero there.

>>> import numpy as np
>>> a, b = Stats({"n": np.array(2)}), Stats({"n": np.array(3), "hits": np.array([1, 0])})
>>> merged = a.merge(b)
>>> int(merged["n"]), merged["hits"].tolist()
(5, [1, 0])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ReplyError

COUNT = np.dtype(np.int64)
SUM = np.dtype(np.float64)


class Stats(Mapping[str, NDArray[Any]]):
    """Named arrays that add up across sites.

    Parameters
    ----------
    arrays : mapping of str to array, any shape, int64 or float64
        Integer arrays become int64 (exact counts), floating ones float64 (sums).

    Raises
    ------
    ReplyError
        If an array is neither integer nor floating.
    """

    def __init__(self, arrays: Mapping[str, Any] | None = None) -> None:
        self._arrays = {name: _summand(name, array) for name, array in (arrays or {}).items()}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}{list(a.shape)}" for name, a in self._arrays.items())
        return f"Stats({shapes})"

    def merge(self, other: Stats) -> Stats:
        """Add two sets of summands; a missing name counts as zero.

        Raises
        ------
        ReplyError
            If a name has two shapes or two dtypes.
        """
        merged = Stats()
        merged._arrays = dict(self._arrays)
        merged._add(other)
        return merged

    @classmethod
    def total(cls, parts: Iterable[Stats]) -> Stats:
        """Fold many sets of summands, holding one running sum."""
        running = cls()
        for part in parts:
            running._add(part)
        return running

    def _add(self, other: Stats) -> None:
        for name, array in other._arrays.items():
            mine = self._arrays.get(name)
            if mine is None:
                self._arrays[name] = array
                continue
            if mine.shape != array.shape or mine.dtype != array.dtype:
                raise ReplyError(
                    f"summand '{name}' is {array.dtype}{list(array.shape)}, "
                    f"expected {mine.dtype}{list(mine.shape)} as from the other sites"
                )
            self._arrays[name] = mine + array

    def under(self, prefix: str) -> Stats:
        """Return a copy with every name prefixed by ``prefix/``."""
        return self._view({f"{prefix}/{name}": a for name, a in self._arrays.items()})

    def below(self, prefix: str) -> Stats:
        """Return the summands below ``prefix/``, without the prefix."""
        start = f"{prefix}/"
        return self._view(
            {n[len(start) :]: a for n, a in self._arrays.items() if n.startswith(start)}
        )

    @classmethod
    def _view(cls, arrays: dict[str, NDArray[Any]]) -> Stats:
        stats = cls()
        stats._arrays = arrays
        return stats


def _summand(name: str, array: Any) -> NDArray[Any]:
    value = np.asarray(array)
    if value.dtype.kind in "iub":
        return value.astype(COUNT, copy=False)
    if value.dtype.kind == "f":
        return value.astype(SUM, copy=False)
    raise ReplyError(f"summand '{name}' has dtype {value.dtype}; only counts and sums may leave")
