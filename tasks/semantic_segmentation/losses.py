"""Training losses of segmentation by name; pixels without a label are in none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.contract import TrainConfig
from tasks.images.augment import IGNORED

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(logits (b, c, h, w), masks (b, h, w) int64) -> a scalar."""
NAMES = ("auto", "cross_entropy", "dice", "cross_entropy_dice")
WEIGHTS = ("none", "balanced")


def segmentation_loss(config: TrainConfig, pixel_counts: list[int]) -> Loss:
    """Return ``cross_entropy`` (``auto``), ``dice``, or their sum ``cross_entropy_dice``.

    ``class_weight: balanced`` weighs the cross-entropy of a pixel of class c by
    n / (num_classes * n_c), counted over all sites. A batch without a labelled pixel costs 0.

    Raises
    ------
    ConfigError
        If there is no such loss or weighting.
    """
    if config.loss not in NAMES:
        near = suggest(config.loss, NAMES)
        raise ConfigError(f"train.loss '{config.loss}' does not exist here{near}")
    if config.class_weight not in WEIGHTS:
        near = suggest(config.class_weight, WEIGHTS)
        raise ConfigError(f"train.class_weight is {config.class_weight!r}{near}")
    weights = _balanced(pixel_counts) if config.class_weight == "balanced" else None

    def loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        value = logits.new_zeros(())
        if config.loss != "dice":
            value = value + _cross_entropy(logits, masks, weights)
        if "dice" in config.loss:
            value = value + dice_loss(logits, masks)
        return value

    return loss


def dice_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the mean soft Dice coefficient of the classes, over the batch's pixels.

    References
    ----------
    F. Milletari, N. Navab, S.-A. Ahmadi (2016). V-Net. 3DV, arXiv:1606.04797.
    """
    known = (masks != IGNORED).unsqueeze(1)  # (b, 1, h, w)
    shares = torch.softmax(logits, dim=1) * known
    labels = torch.where(masks == IGNORED, 0, masks)
    truth = F.one_hot(labels, logits.shape[1]).permute(0, 3, 1, 2) * known
    both = (shares * truth).sum(dim=(0, 2, 3))
    total = (shares + truth).sum(dim=(0, 2, 3))
    return 1.0 - ((2.0 * both + 1.0) / (total + 1.0)).mean()


def _cross_entropy(
    logits: torch.Tensor, masks: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    pixels = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none")
    if weights is not None:
        pixels = pixels * weights.to(logits.device)[torch.where(masks == IGNORED, 0, masks)]
    return pixels.sum() / (masks != IGNORED).sum().clamp(min=1)


def _balanced(counts: list[int]) -> torch.Tensor:
    found = np.array(counts, dtype=np.float64)
    spread = np.zeros(len(found))
    np.divide(found.sum(), len(found) * found, out=spread, where=found > 0)
    return torch.tensor(spread, dtype=torch.float32)
