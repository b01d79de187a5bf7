"""Cut one table into sites: the same request gives the same rows everywhere.

Every kind gives disjoint parts that together are all rows, with at least two rows a site (one
to train on, one to hold out).

References
----------
Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019, arXiv:1909.06335 (label skew by a Dirichlet distribution).
Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019
(the form used here: one draw over sites for each class).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.contract import Partition

MIN_ROWS = 2
MAX_CLASSES = 50
NUM_BINS = 10

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class _Request:
    """A cut of one table: equal requests share one cached answer."""

    partition: Partition
    digest: bytes
    labels: NDArray[Any] = field(compare=False, repr=False)
    column: NDArray[Any] | None = field(compare=False, repr=False)

    def generator(self) -> np.random.Generator:
        return np.random.default_rng([self.partition.seed % 2**64])


def partition_rows(labels: NDArray[Any], column: NDArray[Any] | None, partition: Partition) -> Rows:
    """Return the rows of site ``partition.index``.

    Parameters
    ----------
    labels : array, shape (rows,)
        The target. ``dirichlet`` skews by it; a numeric target with more than 50 distinct values
        is cut into ten quantile bins first. The other kinds use its length only.
    column : array, shape (rows,), or None
        The values of ``partition.column``; used by kind ``column``.
    partition : Partition
        ``iid``: sizes differ by at most one. ``dirichlet``: every class is shared out by its own
        Dirichlet(alpha) draw; a site left with fewer than two rows then takes rows one at a time
        from the site that is largest at that moment. ``size``: two rows each, the rest by
        Dirichlet(alpha). ``column``: the index-th of the sorted distinct values.

    Returns
    -------
    array, shape (rows of the site,), int64
        Sorted row indices, read-only.

    Raises
    ------
    ConfigError
        If the kind is unknown, the index is out of range, there are fewer
        than two rows a site, or the column's values do not match the number of sites.
    """
    _check(len(labels), column, partition)
    digest = _digest(labels, column, partition.kind)
    request = _Request(replace(partition, index=0), digest, labels, column)
    return _assignment(request)[partition.index]


@lru_cache(maxsize=8)
def _assignment(request: _Request) -> tuple[Rows, ...]:
    parts = _KINDS[request.partition.kind](request)
    rows = tuple(np.sort(part).astype(np.int64, copy=False) for part in parts)
    for part in rows:
        part.setflags(write=False)
    return rows


def _iid(request: _Request) -> list[Rows]:
    order = request.generator().permutation(len(request.labels))
    return list(np.array_split(order, request.partition.num_sites))


def _size(request: _Request) -> list[Rows]:
    num_sites, num_rows = request.partition.num_sites, len(request.labels)
    rng = request.generator()
    spare = num_rows - MIN_ROWS * num_sites
    shares = _dirichlet_draw(rng, request.partition) * spare
    sizes = np.floor(shares).astype(np.int64)
    left = spare - int(sizes.sum())
    sizes[np.argsort(sizes - shares, kind="stable")[:left]] += 1  # largest remainders first
    return np.split(rng.permutation(num_rows), np.cumsum(sizes + MIN_ROWS)[:-1])


def _dirichlet(request: _Request) -> list[Rows]:
    rng = request.generator()
    classes = _classes(request.labels)
    site = np.empty(len(classes), dtype=np.int64)
    for code in range(int(classes.max()) + 1):
        rows = rng.permutation(np.flatnonzero(classes == code))
        shares = _dirichlet_draw(rng, request.partition)
        cuts = np.floor(np.cumsum(shares)[:-1] * len(rows) + 0.5).astype(np.int64)
        site[rows] = np.searchsorted(cuts, np.arange(len(rows)), side="right")
    order = rng.permutation(len(site))
    parts = [order[site[order] == index] for index in range(request.partition.num_sites)]
    return _repaired(parts)


def _repaired(parts: list[Rows]) -> list[Rows]:
    """Move rows, one at a time, from the largest site to sites that have fewer than two."""
    sizes = np.array([len(part) for part in parts])
    taken: dict[int, list[int]] = {}
    for needy in np.flatnonzero(sizes < MIN_ROWS).tolist():
        for _ in range(MIN_ROWS - int(sizes[needy])):
            donor = int(sizes.argmax())
            sizes[donor] -= 1
            taken.setdefault(needy, []).append(int(parts[donor][sizes[donor]]))
    kept = [part[: min(len(part), int(sizes[index]))] for index, part in enumerate(parts)]
    for needy, rows in taken.items():
        kept[needy] = np.concatenate([parts[needy], np.array(rows, dtype=np.int64)])
    return kept


def _column(request: _Request) -> list[Rows]:
    values, name = request.column, request.partition.column
    if values is None or pd.isna(values).any():
        raise ConfigError(f"partition column '{name}' has missing values; fill them or choose iid")
    codes, distinct = pd.factorize(values)
    if len(distinct) != request.partition.num_sites:
        raise ConfigError(
            f"partition column '{name}' has {len(distinct)} distinct values, expected "
            f"{request.partition.num_sites}; set data.num_sites={len(distinct)}"
        )
    counts = np.bincount(codes)
    if counts.min() < MIN_ROWS:
        rare = distinct[int(counts.argmin())]
        raise ConfigError(
            f"partition column '{name}': '{rare}' has fewer than {MIN_ROWS} rows; drop or merge it"
        )
    # numbers in their own order, anything else by its text
    numeric = pd.api.types.is_numeric_dtype(distinct)
    keys = [float(v) if numeric else str(v) for v in distinct]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [np.flatnonzero(codes == code) for code in order]


_KINDS: dict[str, Callable[[_Request], list[Rows]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "size": _size,
    "column": _column,
}


def _dirichlet_draw(rng: np.random.Generator, partition: Partition) -> NDArray[np.float64]:
    return rng.dirichlet(np.full(partition.num_sites, partition.alpha))


def _classes(labels: NDArray[Any]) -> Rows:
    """Return class codes by order of appearance; many-valued numeric labels by quantile bin."""
    codes, distinct = pd.factorize(labels, use_na_sentinel=False)
    if len(distinct) > MAX_CLASSES and pd.api.types.is_numeric_dtype(labels.dtype):
        ranks = pd.Series(labels).rank(method="first", na_option="bottom").to_numpy()
        return ((ranks - 1) * NUM_BINS // len(ranks)).astype(np.int64)
    return codes.astype(np.int64)


def _digest(labels: NDArray[Any], column: NDArray[Any] | None, kind: str) -> bytes:
    """Identify the data that decides the cut; cheap, as it is computed for every site."""
    decisive = {"dirichlet": labels, "column": column}.get(kind)
    digest = blake2b(str(len(labels)).encode(), digest_size=16)
    if decisive is not None:
        digest.update(pd.util.hash_array(decisive).tobytes())
    return digest.digest()


def _check(num_rows: int, column: NDArray[Any] | None, partition: Partition) -> None:
    if partition.kind not in _KINDS:
        hint = suggest(partition.kind, _KINDS)
        raise ConfigError(f"partition kind '{partition.kind}' does not exist{hint}")
    if partition.num_sites < 1 or not 0 <= partition.index < partition.num_sites:
        raise ConfigError(
            f"partition index {partition.index} of {partition.num_sites} sites; "
            "expected 0 <= index < number of sites"
        )
    if num_rows < MIN_ROWS * partition.num_sites:
        raise ConfigError(
            f"{num_rows} rows cannot fill {partition.num_sites} sites of at least {MIN_ROWS} rows; "
            f"set data.num_sites to at most {num_rows // MIN_ROWS}"
        )
    if partition.kind == "column" and (column is None or len(column) != num_rows):
        raise ConfigError("partition kind 'column' needs partition.column=NAME of a column")
