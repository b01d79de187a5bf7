"""What each layer of a PyTorch module is and holds: its kind, its running statistics."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

STATISTICS = ("running_mean", "running_var")
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


def layer_kinds(module: nn.Module) -> dict[str, str]:
    """Return the kind of every parameter and buffer by name.

    Returns
    -------
    dict of str to {"norm", "head", "body"}
        ``head`` is the last layer with parameters that is no normalisation, in the order in which
        the module registers its layers.
    """
    owners = {
        prefix: layer
        for prefix, layer in module.named_modules()
        if any(True for _ in layer.named_parameters(recurse=False))
        or any(True for _ in layer.named_buffers(recurse=False))
    }
    plain = [prefix for prefix, layer in owners.items() if not isinstance(layer, NORMS)]
    kinds: dict[str, str] = {}
    for prefix, layer in owners.items():
        kind = "norm" if prefix not in plain else "head" if prefix == plain[-1] else "body"
        own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        kinds |= {f"{prefix}.{name}" if prefix else name: kind for name, _ in own}
    return kinds


def named_statistics(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the running statistics by name; the counter of batches, which no layer uses, not."""
    for prefix, layer in module.named_modules():
        if isinstance(layer, _NormBase):
            for name in STATISTICS:
                buffer = getattr(layer, name, None)
                if buffer is not None:
                    yield f"{prefix}.{name}" if prefix else name, buffer


def use_running_statistics(module: nn.Module) -> None:
    """Normalise with the running statistics although ``module`` trains: one row has no variance."""
    for layer in module.modules():
        if isinstance(layer, _NormBase):
            layer.eval()
