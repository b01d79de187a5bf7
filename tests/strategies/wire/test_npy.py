import numpy as np
import pytest
from flwr.app import Array

from strategies.wire import npy

ARRAYS = {
    "scalar": np.array(3.5),
    "matrix": np.arange(6).reshape(2, 3),
    "empty": np.zeros((0, 3), np.float32),
    "bool": np.array([True, False]),
    "strided": np.arange(20.0).reshape(4, 5)[::2, ::2],
    "big endian": np.arange(3, dtype=">i4"),
    "half": np.array([1, 2], np.float16),
}


@pytest.mark.parametrize("values", ARRAYS.values(), ids=ARRAYS)
def test_encoding_is_flowers_and_comes_back(values):
    encoded, expected = npy.encode(values), Array(np.asarray(values, order="C"))
    assert (encoded.dtype, encoded.shape) == (expected.dtype, expected.shape)
    assert (encoded.stype, encoded.data) == (expected.stype, expected.data)
    decoded = npy.decode(encoded)
    np.testing.assert_array_equal(decoded, values)
    assert decoded.dtype == values.dtype
    assert decoded.flags.writeable


def test_column_order_is_decoded():
    values = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(npy.decode(Array(values)), values)


@pytest.mark.parametrize(
    "change", [lambda d: d + b"\0", lambda d: d[:-1], lambda d: b"", lambda d: d[8:]]
)
def test_other_bytes_are_refused(change):
    good = npy.encode(np.arange(3.0))
    bad = Array(good.dtype, good.shape, good.stype, change(good.data))
    with pytest.raises((ValueError, EOFError)):
        npy.decode(bad)


def test_python_objects_are_refused():
    with pytest.raises(ValueError, match="objects"):
        npy.encode(np.array([{}]))
    good = npy.encode(np.arange(1))
    header = good.data[:128].replace(b"'<i8'", b"'|O' ")
    with pytest.raises(ValueError, match="objects"):
        npy.decode(Array("object", (1,), good.stype, header + b"\0" * 8))
