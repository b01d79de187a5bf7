"""PyTorch's global generator, drawn from a seed for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let PyTorch's global generator draw from ``seed``, and leave it as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
