"""Training losses by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.contract import TrainConfig

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs (b, k), targets (b,)) -> mean over the b rows, a scalar."""


def classification_loss(config: TrainConfig, class_counts: list[int]) -> Loss:
    """Return ``auto`` or ``cross_entropy``, ``focal[:gamma]`` or ``label_smoothing[:share]``.

    ``class_weight: balanced`` weighs class c by n / (num_classes * n_c), counted over all sites.
    A batch is averaged over its rows, not over its weights as PyTorch does: so the mean over sites
    is the loss of the pooled rows.

    References
    ----------
    T.-Y. Lin et al. (2017). Focal loss for dense object detection. ICCV, arXiv:1708.02002.
    """
    name, number = _named(config.loss, {"cross_entropy": 0.0, "focal": 2.0, "label_smoothing": 0.1})
    smoothing = number if name == "label_smoothing" else 0.0
    if smoothing >= 1.0:
        raise ConfigError(f"train.loss is {config.loss!r}; label smoothing must be below 1")
    if config.class_weight not in ("none", "balanced"):
        near = suggest(config.class_weight, ("none", "balanced"))
        raise ConfigError(f"train.class_weight is {config.class_weight!r}{near}")
    weights = _balanced(class_counts) if config.class_weight == "balanced" else None
    if weights is None and name != "focal":
        return lambda outputs, targets: F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        rows = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
        if name == "focal":
            rows = (-torch.expm1(-rows)) ** number * rows  # 1 - p of the true class
        return (rows if weights is None else rows * weights[targets]).mean()

    return loss


def calibrated(loss: Loss, targets: torch.Tensor, num_classes: int, strength: float) -> Loss:
    """Lower the logit of class c by ``strength * n_c ** -0.25`` before ``loss``.

    Parameters
    ----------
    targets : tensor, shape (n,)
        The site's training rows, from which n_c is counted; an absent class counts 1e-8.

    References
    ----------
    J. Zhang et al. (2022). Federated learning with label distribution skew via logits
    calibration. ICML, arXiv:2209.00189, eq. 6.
    """
    counts = torch.bincount(targets, minlength=num_classes).double().clamp(min=1e-8)
    shift = (strength * counts**-0.25).float()  # (c,)
    return lambda outputs, truth: loss(outputs - shift, truth)


def regression_loss(config: TrainConfig) -> Loss:
    """Return ``auto`` or ``mse``, ``mae`` or ``huber[:delta]``, on the target as trained on."""
    name, number = _named(config.loss, {"mse": 0.0, "mae": 0.0, "huber": 1.0})
    if config.class_weight != "none":
        raise ConfigError("train.class_weight is for classification; set it to none")
    if name == "mse":
        return lambda outputs, targets: F.mse_loss(outputs.squeeze(1), targets)
    if name == "mae":
        return lambda outputs, targets: F.l1_loss(outputs.squeeze(1), targets)
    return lambda outputs, targets: F.huber_loss(outputs.squeeze(1), targets, delta=number)


def _named(loss: str, known: dict[str, float]) -> tuple[str, float]:
    """Split ``name:number``; the number is optional where the loss has one."""
    name, colon, text = loss.partition(":")
    name = next(iter(known)) if name == "auto" else name
    if name not in known:
        raise ConfigError(f"train.loss '{loss}' does not exist here{suggest(name, known)}")
    if not colon:
        return name, known[name]
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if known[name] == 0.0 or not 0.0 < number < float("inf"):
        raise ConfigError(f"train.loss is '{loss}'; expected a name such as focal or focal:1.5")
    return name, number


def _balanced(class_counts: list[int]) -> torch.Tensor:
    counts = np.array(class_counts, dtype=np.float64)
    weights = np.divide(
        counts.sum(), len(counts) * counts, out=np.zeros(len(counts)), where=counts > 0
    )
    return torch.tensor(weights, dtype=torch.float32)
