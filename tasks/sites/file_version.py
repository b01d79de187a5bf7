"""Notice that a site's data changed, without reading them again."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tasks.sites.folders import PICTURE_SUFFIXES, walk

COUNTED = PICTURE_SUFFIXES | {".txt", ".xml", ".yaml", ".yml", ".names"}
"""Endings of pictures and labels; a site's audit log and what it spent may lie beside them."""


def file_version(name: str | None) -> object:
    """Return what changes when a file does, or any picture or label below a folder.

    None for a named data set and for what is not there. Ten thousand files take some 0.1 s.
    """
    try:
        status = os.stat(name or "")
    except OSError:
        return None
    if not os.path.isdir(str(name)):
        return status.st_mtime_ns, status.st_size
    found = list(_entries(str(name)))
    return hash(tuple(found)), len(found)


def _entries(root: str) -> Iterator[tuple[str, int, int]]:
    """Yield path, time and size of every picture and label file below a folder."""
    for folder, files in walk(root):
        for name in files:
            if os.path.splitext(name)[1].lower() not in COUNTED:
                continue
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError:  # vanished, or not ours to read: reading will say so
                continue
            yield path, status.st_mtime_ns, status.st_size
