"""Rows to model inputs: impute, scale, one-hot; the same for every site, or in its own units."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import SchemaError
from fl_common.words import quoted
from tasks.contract import Fitted
from tasks.tabular.moments import finalise_moments, moment_stats
from tasks.tabular.rows import Rows
from tasks.tabular.schema import matches

OTHER, MISSING = ":other", ":missing"


@dataclass(frozen=True)
class _OneHot:
    """Feature numbers of one categorical column."""

    levels: dict[str, int]
    other: int | None
    missing: int | None


class Units(NamedTuple):
    """What is subtracted from, and divides, each model input: two arrays of shape (d,)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]


class Encoder:
    """Preprocessing compiled from ``Fitted``.

    Attributes
    ----------
    key : str
        Equal for equal preprocessing.
    columns : list of str, length c
        Source columns.
    feature_names : list of str, length d
        ``age``; ``sex=female``, ``sex:other`` and, if any site lacks values, ``sex:missing``.
    feature_columns : array, shape (d,), int64
        Each feature's source column, as an index into ``columns``.
    baseline : array, shape (d,), float32
        What stands in for a feature that is left out: its global mean or frequency; with
        ``per_site`` the site's own mean.
    per_site : bool
        Whether each site's inputs are in its own ``Units``.
    classes : list of str
    class_counts : list of int
        Training rows of each class over all sites. Both are empty for regression.
    target_units : (mean, scale) of a regression's target
    """

    def __init__(self, fitted: Fitted) -> None:
        self.key = sha256(json.dumps(fitted, sort_keys=True).encode()).hexdigest()
        self.columns: list[str] = list(fitted["columns"])
        self.classes: list[str] = list(fitted.get("classes", []))
        self.per_site = fitted["scaler"] == "per_site"
        self._drop_first = fitted.get("one_hot") == "drop_first"
        self.feature_names: list[str] = []
        sources: list[int] = []
        pooled: list[tuple[float, float]] = []
        self._one_hot: dict[str, _OneHot] = {}
        self._numeric: list[str] = []
        for index, column in enumerate(self.columns):
            names, moments = self._features(column, fitted)
            self.feature_names += names
            pooled += moments
            sources += [index] * len(names)
        self.feature_columns = np.array(sources, dtype=np.int64)
        means, scales = np.array(pooled, dtype=np.float64).reshape(-1, 2).T
        self._pooled = Units(means, scales)
        self.baseline = np.zeros(len(means), dtype=np.float32)
        self._compile_numeric(fitted)
        if not self.per_site:
            self.baseline[:] = means
        if fitted["scaler"] == "standard":
            self.baseline[self._places] = 0.0
        self.class_counts: list[int] = list(fitted.get("class_counts", []))
        target = fitted.get("target", {"mean": 0.0, "scale": 1.0})
        self.target_units: tuple[float, float] = (target["mean"], target["scale"])
        self._target = self.target_units if fitted.get("target_scaling") else (0.0, 1.0)

    @property
    def num_outputs(self) -> int:
        """Number of classes, or 1."""
        return len(self.classes) or 1

    def _features(self, column: str, fitted: Fitted) -> tuple[list[str], list[tuple[float, float]]]:
        """Name a column's features; return each one's pooled mean and scale."""
        start = len(self.feature_names)
        if column in fitted["numeric"]:
            self._numeric.append(column)
            found = fitted["numeric"][column]
            return [column], [(found["mean"], found["scale"])]
        known = fitted["categorical"][column]
        skipped = 1 if self._drop_first else 0
        levels = known["levels"][skipped:]
        names = [f"{column}={level}" for level in levels]
        counts = list(known["counts"][skipped:])
        other = missing = None
        if not self._drop_first:
            other = start + len(names)
            names.append(column + OTHER)
            counts.append(known["other"])
        if known["missing"]:
            missing = start + len(names)
            names.append(column + MISSING)
            counts.append(known["missing"])
        places = {level: start + i for i, level in enumerate(levels)}
        self._one_hot[column] = _OneHot(places, other, missing)
        total = max(1, sum(known["counts"]) + known["other"] + known["missing"])
        return names, [(share, _spread(share)) for share in (n / total for n in counts)]

    def _compile_numeric(self, fitted: Fitted) -> None:
        fits = [fitted["numeric"][column] for column in self._numeric]
        centred = fitted["scaler"] == "standard"
        self._means = np.array([f["mean"] if centred else 0.0 for f in fits])
        self._scales = np.array([f["scale"] if centred else 1.0 for f in fits])
        fill = np.array([f["median" if fitted["imputation"] == "median" else "mean"] for f in fits])
        self._fill = (fill - self._means) / self._scales if len(fits) else fill
        place = {name: i for i, name in enumerate(self.feature_names)}
        self._places = np.array([place[column] for column in self._numeric], dtype=np.int64)

    def encode(self, rows: Rows, origin: str, units: Units | None = None) -> NDArray[np.float32]:
        """Return the model inputs, shape (n, d), float32.

        Parameters
        ----------
        units : Units or None
            With ``per_site``, the site's ``own_units``; None takes those of all sites together,
            from the fit exchange. No meaning otherwise.

        Raises
        ------
        SchemaError
            If a column that preprocessing was fitted on is absent; ``origin`` names the rows.
        """
        if not self.per_site:
            return self._inputs(rows, origin, np.dtype(np.float32))
        mean, scale = units or self._pooled
        inputs = self._inputs(rows, origin, np.dtype(np.float64))
        return ((inputs - mean) / scale).astype(np.float32)

    def own_units(self, rows: Rows, origin: str) -> Units:
        """Return mean and standard deviation of each model input over a site's training rows.

        The scale of an input that is constant there is 1, as in scikit-learn's StandardScaler.
        """
        inputs = self._inputs(rows, origin, np.dtype(np.float64))
        moments = finalise_moments(moment_stats(inputs))
        return Units(np.array([m.mean for m in moments]), np.array([m.scale for m in moments]))

    def _inputs(self, rows: Rows, origin: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        if absent := [column for column in self.columns if column not in rows.columns]:
            raise SchemaError(f"{origin}: column {quoted(absent)} is missing; the model needs it")
        inputs = np.zeros((len(rows), len(self.feature_names)), dtype=dtype)
        if self._numeric:
            index = [rows.numeric_names.index(column) for column in self._numeric]
            with np.errstate(over="ignore"):  # beyond float32 without scaling: training diverges
                values = (rows.numeric[:, index] - self._means) / self._scales
                inputs[:, self._places] = np.where(np.isnan(values), self._fill, values)
        for column, one_hot in self._one_hot.items():
            j = rows.categorical_names.index(column)
            other = -1 if one_hot.other is None else one_hot.other
            places = [one_hot.levels.get(level, other) for level in rows.levels[j]]
            lookup = np.array([*places, -1 if one_hot.missing is None else one_hot.missing])
            hot = lookup[rows.codes[:, j]]  # code -1 reads the last entry
            known = np.flatnonzero(hot >= 0)
            inputs[known, hot[known]] = 1.0
        return inputs

    def scale_target(self, target: NDArray[Any]) -> NDArray[Any]:
        """Return targets as trained on: int64 classes, or float32 values."""
        if self.classes:
            return target.astype(np.int64, copy=False)
        shift, scale = self._target
        return np.asarray((target - shift) / scale, dtype=np.float32)

    def unscale(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return regression outputs in the target's own unit, float64."""
        shift, scale = self._target
        return np.asarray(outputs.astype(np.float64) * scale + shift)

    def keep(self, patterns: Sequence[str]) -> NDArray[np.bool_]:
        """Return which features belong to the columns that ``patterns`` match, shape (d,)."""
        chosen = np.array([matches(column, patterns) for column in self.columns], dtype=bool)
        return np.asarray(chosen[self.feature_columns])


def _spread(share: float) -> float:
    """Return the standard deviation of a 0/1 input; 1 where it is constant."""
    return float((share * (1.0 - share)) ** 0.5) or 1.0
