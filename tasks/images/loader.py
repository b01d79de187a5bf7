"""Decode the pictures of a mini-batch, and remember them only where they are small."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.images.image_refs import ImageRef
from tasks.images.pixels import Geometry

CACHE_SIDE = 64
"""Larger pictures, as the model sees them, are decoded anew every time."""
CACHE_BYTES = 64 * 2**20
"""Most that this process keeps decoded, over all sites that it simulates."""
CHUNK_VALUES = 2**22
"""Pixel values that evaluation has in memory at a time."""
_held = {"bytes": 0}


class PixelLoader:
    """The pictures of one split, decoded when asked for.

    Parameters
    ----------
    images : sequence of ImageRef
    geometry : Geometry
    size : int or None
        Number of pictures, for a subclass that decodes something else.
    """

    def __init__(
        self, images: Sequence[ImageRef], geometry: Geometry, size: int | None = None
    ) -> None:
        self._images = images
        self._geometry = geometry
        self._size = len(images) if size is None else size
        self._known = np.zeros(0, dtype=bool)
        self._cache: NDArray[np.uint8] | None = None
        needed = self._size * int(np.prod(geometry.shape))
        if geometry.size <= CACHE_SIDE and _held["bytes"] + needed <= CACHE_BYTES:
            self._known = np.zeros(self._size, dtype=bool)
            self._cache = np.empty((self._size, *geometry.shape), dtype=np.uint8)
            _held["bytes"] += needed
            weakref.finalize(self, _release, needed)

    def __len__(self) -> int:
        return self._size

    def batch(self, index: NDArray[Any]) -> NDArray[np.uint8]:
        """Return pictures by number, shape (b, c, h, w), uint8.

        Raises
        ------
        BadImageError
            If a file has become unreadable since the site's data were read.
        """
        if self._cache is None:
            decoded = [self._decode(int(i)) for i in index]
            return np.stack(decoded) if decoded else np.empty((0, *self._geometry.shape), np.uint8)
        for i in index[~self._known[index]]:
            self._cache[i] = self._decode(int(i))
            self._known[i] = True
        return np.asarray(self._cache[index])

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield all pictures in order, a few at a time."""
        step = max(1, min(512, CHUNK_VALUES // int(np.prod(self._geometry.shape))))
        for start in range(0, len(self), step):
            yield self.batch(np.arange(start, min(start + step, len(self))))

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return self._geometry.pixels(self._images[index].load())


def _release(size: int) -> None:
    _held["bytes"] -= size
