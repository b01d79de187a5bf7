"""Smaller updates: rounded to fp16 or int8, and only their largest entries.

Alistarh, Grubic, Li, Tomioka, Vojnovic: "QSGD: Communication-Efficient SGD via Gradient
Quantization and Encoding", NeurIPS 2017 (arXiv:1610.02132): stochastic rounding, unbiased. Stich,
Cordonnier, Jaggi: "Sparsified SGD with Memory", NeurIPS 2018 (arXiv:1809.07599), Algorithm 1::

    p <- (trained - received) + e
    u <- the k largest |p|, rounded             u is sent
    e <- p - u                                  e stays at the site

An update is one flat vector over all floating weights in the order of their names, without the
running statistics of normalisation layers, which travel whole (``strategies.arrays``). ``fp32``
without ``top_k`` encodes nothing: the weights themselves travel, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ReplyError
from fl_common.validation import Share, checked
from strategies.arrays import statistics
from strategies.site_state import SiteState
from tasks.contract import Arrays

VALUES, INDICES, SCALES = "values", "indices", "scales"
RESIDUAL = "compression-residual"
DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
LARGEST_HALF = 65504.0
EncodedShape = tuple[tuple[int, ...], str]
"""(shape, dtype) of an encoded array."""


@checked("compression")
class Compression:
    """How an update is encoded (config group ``compression``).

    Parameters
    ----------
    dtype : {"fp32", "fp16", "int8"}
        fp16 rounds to nearest; int8 rounds at random, without bias, in steps of a 127th of each
        weight array's largest entry.
    top_k : float in (0, 1] or None
        Share of the entries that is sent; what is left out is remembered and added next time.
    """

    dtype: Literal["fp32", "fp16", "int8"] = "fp32"
    top_k: Share | None = None

    @property
    def is_active(self) -> bool:
        """Whether anything is encoded at all."""
        return self.dtype != "fp32" or self.top_k is not None


def encode(
    trained: Arrays,
    received: Arrays,
    compression: Compression,
    state: SiteState,
    rng: np.random.Generator,
) -> Arrays:
    """Encode a site's update; remember what top-k leaves out.

    Returns
    -------
    dict of str to array
        In the form of ``encoded_form``.
    """
    names = encoded_names(received)
    update = np.concatenate(
        [(trained[n].astype(np.float64) - received[n]).ravel() for n in names] or [np.zeros(0)]
    )
    encoded: Arrays = {}
    chosen: Any = slice(None)
    if compression.top_k is not None:
        known = state.get(RESIDUAL)
        if known is not None and known["residual"].shape == update.shape:
            update = update + known["residual"]
        chosen = largest(update, num_sent(len(update), compression))
        encoded[INDICES] = chosen.astype(np.uint32)
    owners = _owners(received, names, chosen)
    if compression.dtype == "int8":
        scales = np.zeros(len(names))
        np.maximum.at(scales, owners, np.abs(update[chosen]) / 127)
        encoded[SCALES] = scales.astype(np.float32)
    encoded[VALUES] = _rounded(update[chosen], encoded.get(SCALES), owners, compression, rng)
    if compression.top_k is not None:
        residual = update.copy()
        residual[chosen] -= _restored(encoded, owners)
        state.put(RESIDUAL, {"residual": residual.astype(np.float32)})
    return encoded


def decode(encoded: Arrays, received: Arrays, compression: Compression) -> Arrays:
    """Return the floating weights that an encoded update leads to, in the sent dtypes.

    Raises
    ------
    ReplyError
        If an index is out of range or comes twice, or a value is not finite.
    """
    names = encoded_names(received)
    size = sum(received[n].size for n in names)
    chosen: Any = slice(None)
    if compression.top_k is not None:
        chosen = encoded[INDICES].astype(np.int64)
        if len(chosen) and (chosen[-1] >= size or (np.diff(chosen) <= 0).any()):
            raise ReplyError("update: indices must rise and lie within the model")
    values = _restored(encoded, _owners(received, names, chosen))
    if not np.isfinite(values).all():
        raise ReplyError("update: holds a value that is not finite")
    update = np.zeros(size)
    update[chosen] = values
    decoded, start = {}, 0
    for name in names:
        sent = received[name]
        part = update[start : start + sent.size].reshape(sent.shape)
        decoded[name] = (sent + part).astype(sent.dtype)
        start += sent.size
    return decoded


def encoded_form(received: Mapping[str, Any], compression: Compression) -> dict[str, EncodedShape]:
    """Return the name, shape and dtype of everything that an encoded update holds."""
    names = encoded_names(received)
    count = num_sent(sum(math.prod(received[n].shape) for n in names), compression)
    form: dict[str, EncodedShape] = {VALUES: ((count,), DTYPES[compression.dtype])}
    if compression.top_k is not None:
        form[INDICES] = ((count,), "uint32")
    if compression.dtype == "int8":
        form[SCALES] = ((len(names),), "float32")
    return form


def applies(received: Mapping[str, Any], compression: Compression) -> bool:
    """Say whether there is anything to encode: trees have no floating weights."""
    return compression.is_active and bool(encoded_names(received))


def encoded_names(arrays: Mapping[str, Any]) -> list[str]:
    """Return which arrays of a model are encoded, in order; the others travel as they are."""
    floating = {name for name, array in arrays.items() if np.dtype(array.dtype).kind == "f"}
    return sorted(floating - statistics(arrays).keys())


def num_sent(size: int, compression: Compression) -> int:
    """Return how many entries of an update of ``size`` are sent."""
    return size if compression.top_k is None else math.ceil(compression.top_k * size)


def largest(update: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the places of the ``count`` largest magnitudes, in rising order."""
    if count >= len(update):
        return np.arange(len(update))
    return np.sort(np.argpartition(np.abs(update), len(update) - count)[len(update) - count :])


def round_at_random(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Round up with the probability of the fraction, so that the mean is the value."""
    return np.floor(values + rng.random(values.shape))


def _owners(received: Arrays, names: list[str], chosen: Any) -> NDArray[np.int64]:
    """Return which array each sent entry belongs to, shape (k,)."""
    sizes = [received[name].size for name in names]
    return np.asarray(np.repeat(np.arange(len(names)), sizes)[chosen])


def _rounded(
    values: NDArray[np.float64],
    scales: NDArray[np.float32] | None,
    owners: NDArray[np.int64],
    compression: Compression,
    rng: np.random.Generator,
) -> NDArray[Any]:
    if compression.dtype == "fp16":
        return np.clip(values, -LARGEST_HALF, LARGEST_HALF).astype(np.float16)
    if scales is None:
        return values.astype(np.float32)
    unit = scales[owners].astype(np.float64)
    steps = np.divide(values, unit, out=np.zeros_like(values), where=unit > 0)
    return np.clip(round_at_random(steps, rng), -127, 127).astype(np.int8)


def _restored(encoded: Arrays, owners: NDArray[np.int64]) -> NDArray[np.float64]:
    values = encoded[VALUES].astype(np.float64)
    scales = encoded.get(SCALES)
    return values if scales is None else values * scales[owners].astype(np.float64)
