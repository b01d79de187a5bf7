"""Walk through a site's folders, through links too, as torchvision's ``ImageFolder`` does."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".mpo", ".png", ".bmp", ".tif", ".tiff"),
        *(".webp", ".gif", ".ppm", ".pgm", ".jp2"),
    )
)
Identity = tuple[int, int]
"""Device and inode of a folder: the same by whatever path it is reached."""


def walk(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Yield every folder below and including ``root``, with the names of its files, sorted.

    A link to a folder is followed, unless it leads back to a folder that it is in. What may not be
    read, or vanishes meanwhile, is left out.
    """
    within: dict[str, frozenset[Identity]] = {}
    for folder, below, files in os.walk(root, followlinks=True):
        above = within.pop(folder, frozenset())
        here = _identity(folder)
        if here is None or here in above:
            below.clear()
            continue
        below.sort()
        within |= {os.path.join(folder, name): above | {here} for name in below}
        yield folder, sorted(files)


def files_below(root: Path, suffixes: Collection[str]) -> list[Path]:
    """Return every file below a folder that has one of the endings (lower case), sorted."""
    return sorted(
        Path(folder, name)
        for folder, files in walk(root)
        for name in files
        if os.path.splitext(name)[1].lower() in suffixes
    )


def _identity(folder: str) -> Identity | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
