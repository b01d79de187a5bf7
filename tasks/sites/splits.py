"""How a site's rows are split into training, validation and holdout where it gives one file."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from fl_common.errors import ConfigError, DataError
from tasks.contract import VALIDATION, child_seed

Positions = tuple[NDArray[np.int64], NDArray[np.int64]]
Split = Callable[[int, NDArray[np.int64] | None, float, int], Positions]
"""(number of rows, classes (n,) or None, holdout fraction, seed) -> training, holdout rows."""


class ThreeWay(NamedTuple):
    """Sorted positions of each split's rows; no row is in two."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    holdout: NDArray[np.int64]


def split_three_ways(
    split: Split,
    size: int,
    labels: NDArray[np.int64] | None,
    *,
    holdout: float | None,
    validation: float | None,
    seed: int,
) -> ThreeWay:
    """Cut the holdout, then the validation rows from what is left, by the same kind of split.

    The holdout does not depend on ``validation``, so that scores stay comparable.

    Parameters
    ----------
    holdout, validation : float or None
        Fractions of the rows, and of the rows that are left; None: no row (a file has them).

    Raises
    ------
    ConfigError
        If a fraction is not within (0, 1).
    DataError
        If one row is left for training and validation.
    """
    nothing = np.zeros(0, dtype=np.int64)
    kept, held = np.arange(size, dtype=np.int64), nothing
    if holdout is not None:
        kept, held = split(size, labels, holdout, seed)
    if validation is None:
        return ThreeWay(kept, nothing, held)
    _check_fraction(validation, "validation_fraction")
    if len(kept) < 2:
        raise DataError(
            f"{len(kept)} of {size} rows is left beside the holdout; data.validation_fraction "
            "needs at least 2, one of which trains"
        )
    rest = labels[kept] if labels is not None else None
    train, chosen = split(len(kept), rest, validation, child_seed(seed, VALIDATION))
    return ThreeWay(kept[train], kept[chosen], held)


def splitter(name: str) -> Split:
    """Return the split called ``stratified`` or ``sklearn``."""
    return {"stratified": split_rows, "sklearn": split_like_sklearn}[name]


def split_like_sklearn(
    size: int, labels: NDArray[np.int64] | None, fraction: float, seed: int
) -> Positions:
    """Split as ``sklearn.model_selection.train_test_split`` does, to repeat published splits.

    ``train_size`` is 1 - ``fraction``, ``random_state`` the seed; stratified where there are two
    classes and each has more than two rows.

    Returns
    -------
    training, holdout : arrays, int64
        Sorted positions.

    Raises
    ------
    ConfigError
        If ``fraction`` is not within (0, 1), or scikit-learn cannot split so few rows.
    """
    _check_fraction(fraction, "holdout_fraction")
    counts = np.bincount(labels) if labels is not None else np.zeros(0, dtype=np.int64)
    counts = counts[counts > 0]
    stratify = labels if len(counts) > 1 and counts.min() > 2 else None
    try:
        kept, held = train_test_split(
            np.arange(size),
            train_size=round(1.0 - fraction, 12),
            random_state=seed % 2**32,
            stratify=stratify,
        )
    except ValueError as error:
        raise ConfigError(
            f"usecase.split=sklearn cannot split off {fraction:g} of {size} rows"
            f" ({' '.join(str(error).split())}); choose usecase.split=stratified"
        ) from None
    return np.sort(kept), np.sort(held)


def split_rows(
    size: int, labels: NDArray[np.int64] | None, fraction: float, seed: int
) -> Positions:
    """Split ``size >= 2`` rows into sorted training and holdout positions, neither empty.

    Stratified by class where every class present has at least two rows: each holds out its
    share of ``fraction``, rounded so that the total is right (largest remainders first) and a
    training row stays.

    Raises
    ------
    ConfigError
        If ``fraction`` is not within (0, 1).
    """
    _check_fraction(fraction, "holdout_fraction")
    generator = np.random.default_rng(child_seed(seed, "holdout"))
    wanted = min(max(round(size * fraction), 1), size - 1)
    if labels is None or has_single(labels):
        held = generator.permutation(size)[:wanted]
    else:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        sizes = np.array([len(group) for group in groups])
        quota = _apportion(sizes, wanted)
        held = np.concatenate(
            [generator.permutation(g)[:q] for g, q in zip(groups, quota, strict=True)]
        )
    mask = np.zeros(size, dtype=bool)
    mask[held] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def last_rows(size: int, fraction: float) -> Positions:
    """Hold out the last of ``size >= 2`` rows, where neighbours are alike (frames of a film).

    Raises
    ------
    ConfigError
        If ``fraction`` is not within (0, 1).
    """
    _check_fraction(fraction, "holdout_fraction")
    first = size - min(max(round(size * fraction), 1), size - 1)
    return np.arange(first), np.arange(first, size)


def merge_singles(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return labels where classes of one row are one class, so that one does not end the strata."""
    counts = np.bincount(labels)
    return np.where(counts[labels] == 1, len(counts), labels)


def _check_fraction(fraction: float, key: str) -> None:
    if not 0 < fraction < 1:
        raise ConfigError(f"data.{key} is {fraction}; expected between 0 and 1")


def _apportion(sizes: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    share = sizes * (wanted / sizes.sum())
    quota = np.minimum(np.floor(share), sizes - 1).astype(np.int64)
    for group in np.argsort(quota - share, kind="stable"):  # largest remainder first
        if quota.sum() < wanted and quota[group] < sizes[group] - 1:
            quota[group] += 1
    return np.asarray(quota)


def has_single(labels: NDArray[np.int64]) -> bool:
    """Say whether a class has one row only."""
    return bool((np.bincount(labels) == 1).any())
