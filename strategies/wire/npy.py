"""Numpy's own file format, as Flower carries it, without parsing one header thousands of times.

``encode`` gives byte for byte what ``flwr.app.Array(ndarray)`` does. ``decode`` gives what
``Array.numpy`` does, and is stricter: nothing may follow the values.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array
from numpy.lib import format as npy
from numpy.typing import NDArray

STYPE = "numpy.ndarray"
MAGIC = npy.magic(1, 0)
MAX_HEADER_BYTES = 1024
"""Longer headers, and other versions of the format, are left to numpy."""


def encode(values: Any) -> Array:
    """Encode an array in C order."""
    array = np.asarray(values, order="C")
    if array.dtype.hasobject:
        raise ValueError("an array of Python objects cannot be encoded")
    data = _header(array.dtype, array.shape) + array.tobytes()
    return Array(str(array.dtype), array.shape, STYPE, data)


def decode(array: Array, *, copy: bool = True) -> NDArray[Any]:
    """Decode an array, into memory of its own or as a read-only view of the bytes.

    Raises
    ------
    ValueError, TypeError
        If the bytes are not one array.
    """
    data = array.data
    start = 10 + int.from_bytes(data[8:10], "little")
    if array.stype != STYPE or data[:8] != MAGIC or start > MAX_HEADER_BYTES:
        return array.numpy()
    dtype, shape, fortran_order = _layout(data[:start])
    values = np.frombuffer(data, dtype, offset=start)
    values = values.reshape(shape, order="F" if fortran_order else "C")
    return values.copy() if copy else values


@lru_cache(maxsize=256)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = BytesIO()
    form = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, form)
    return buffer.getvalue()


@lru_cache(maxsize=256)
def _layout(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    stream = BytesIO(header[len(MAGIC) :])
    shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects cannot be decoded")
    return dtype, shape, fortran_order
