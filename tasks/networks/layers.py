"""What kind each layer of a PyTorch module is, for strategies that keep some of them local."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

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
