"""Process-wide settings of PyTorch, kept here so that only ``tasks/`` imports it."""

from __future__ import annotations

import torch


def limit_threads(num_threads: int | None) -> None:
    """Set how many threads one operation may use; None leaves PyTorch's choice."""
    if num_threads is not None:
        torch.set_num_threads(num_threads)
