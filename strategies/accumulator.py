"""A running weighted mean of models: memory of one model, however many sites reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ReplyError
from tasks.contract import Arrays


class WeightedMean:
    """Fold weighted models one by one; ``result`` is their mean.

    Sums are kept in float64. A float32 weight times an integer count below 2**29 is exact there,
    so the mean of one model is that model bit for bit, and the order in which replies arrive
    leaves no trace in the float32 result unless exponents differ by more than 2**20.

    Notes
    -----
    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017, Algorithm 1, last line: w = sum_k (n_k / n) w_k.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self.weight = 0.0
        self.num_replies = 0

    def add(self, arrays: Mapping[str, NDArray[Any]], weight: float) -> None:
        """Add one model.

        Parameters
        ----------
        arrays : mapping of str to array, any shape
            The same names and shapes as every model before.
        weight : float, > 0
            Usually the site's number of training examples.

        Raises
        ------
        ReplyError
            If the weight is not positive, or a name or shape differs.
        """
        if not weight > 0:
            raise ReplyError(f"a model's weight must be positive, got {weight}")
        if not self._sums:
            self._dtypes = {name: array.dtype for name, array in arrays.items()}
            self._sums = {name: np.zeros(array.shape) for name, array in arrays.items()}
        if arrays.keys() != self._sums.keys():
            raise ReplyError(f"arrays {sorted(arrays.keys() ^ self._sums.keys())} do not match")
        for name, array in arrays.items():
            if array.shape != self._sums[name].shape:
                raise ReplyError(
                    f"array '{name}' is {array.shape}, expected {self._sums[name].shape}"
                )
        for name, array in arrays.items():
            self._sums[name] += np.multiply(array, weight, dtype=np.float64)
        self.weight += weight
        self.num_replies += 1

    def result(self) -> Arrays | None:
        """Return the mean in the models' own dtypes; None when nothing was added."""
        if not self.num_replies:
            return None
        mean: Arrays = {}
        for name, total in self._sums.items():
            value = total / self.weight
            dtype = self._dtypes[name]
            mean[name] = (np.rint(value) if dtype.kind in "iu" else value).astype(dtype)
        return mean
