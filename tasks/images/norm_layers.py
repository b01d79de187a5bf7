"""Normalisation layers of an image network: batch, group, or batch with frozen statistics."""

from __future__ import annotations

import math

from torch import nn

from fl_common.errors import ConfigError
from fl_common.words import suggest

NORMS = ("batch", "group", "frozen")
MAX_GROUPS = 32


class FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation that always uses the statistics and the scale it was given."""

    def train(self, mode: bool = True) -> FrozenNorm:
        """Stay in evaluation, whatever the network around it does."""
        super().train(False)
        return self


def set_norms(module: nn.Module, kind: str) -> None:
    """Turn every batch normalisation of ``module`` into ``kind``, in place.

    Parameters
    ----------
    kind : {"batch", "group", "frozen"}
        ``batch`` leaves them; ``group``: as many groups as divide the channels, up to 32;
        ``frozen``: neither statistics nor scale change in training.

    Raises
    ------
    ConfigError
        If there is no such kind.

    References
    ----------
    Y. Wu, K. He (2018). Group normalization. ECCV, arXiv:1803.08494. K. Hsieh et al. (2020). The
    non-IID data quagmire of decentralized machine learning. ICML, arXiv:1910.00189 (why batch
    normalisation suffers where sites differ).
    """
    if kind not in NORMS:
        raise ConfigError(f"model.params.norm is {kind!r}{suggest(str(kind), NORMS)}")
    if kind == "batch":
        return
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                setattr(parent, name, _group(layer) if kind == "group" else _frozen(layer))


def _group(layer: nn.BatchNorm2d) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(MAX_GROUPS, layer.num_features), layer.num_features, layer.eps)


def _frozen(layer: nn.BatchNorm2d) -> FrozenNorm:
    frozen = FrozenNorm(layer.num_features, layer.eps, layer.momentum)
    frozen.load_state_dict(layer.state_dict())
    return frozen.requires_grad_(False).eval()
