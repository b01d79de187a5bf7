"""Process-wide settings of PyTorch, kept here so that only ``tasks/`` imports it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_chosen = False


def limit_threads(num_threads: int | None) -> None:
    """Set how many threads one operation may use; None leaves it to PyTorch and the task."""
    global _chosen
    _chosen = num_threads is not None
    if num_threads is not None:
        torch.set_num_threads(num_threads)


@contextmanager
def small_operations() -> Iterator[None]:
    """Use one thread for a block of tiny operations, unless the user chose a number.

    Threads cost more than they bring there: on a busy two-core machine a tabular round took nine
    times as long with two.
    """
    before = torch.get_num_threads()
    if _chosen or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
