"""Local training of trees: a few boosting rounds on the booster received."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_common.errors import ConfigError, DivergedError
from tasks.contract import LocalObjective, LocalOutcome, TrainConfig
from tasks.tabular.boosting import TreeModel
from tasks.tabular.data import Tensors
from tasks.tabular.encode import Encoder


def train_trees(
    model: TreeModel, data: Tensors, config: TrainConfig, *, objective: LocalObjective, seed: int
) -> LocalOutcome:
    """Boost ``model`` in place on a site's training rows.

    Notes
    -----
    Privacy: leaving are the new trees. A threshold lies between two values of a column at the
    site, and a node carries its rows' number (as a sum of second derivatives) and mean residual.

    Raises
    ------
    ConfigError
        If the strategy changes a gradient, which trees do not follow, or privacy is asked for.
    DivergedError
        If the loss is not finite.
    """
    if objective != LocalObjective():
        raise ConfigError("trees follow no gradient: choose strategy=xgb_bagging or xgb_cyclic")
    if config.dp is not None:
        raise ConfigError("trees cannot be trained with differential privacy: set model=mlp")
    weights = _row_weights(model.encoder, data, config)
    model.boost(data, weights, seed)
    loss = _loss(model.outputs(data.inputs), data.targets.numpy(), weights)
    if not math.isfinite(loss):
        raise DivergedError("the training loss is not finite")
    return LocalOutcome(model.arrays(), len(data.targets), model.num_local_round, loss)


def check_loss(loss: str, classes: int) -> None:
    """Require the loss that the trees are grown for.

    Raises
    ------
    ConfigError
        Naming the one there is.
    """
    known = "cross_entropy" if classes else "mse"
    if loss not in ("auto", known):
        raise ConfigError(f"model=xgboost minimises {known}, not {loss}; set train.loss=auto")


def _row_weights(encoder: Encoder, data: Tensors, config: TrainConfig) -> NDArray[np.float64]:
    """Return 1 per row, or n / (num_classes * n_class) over all sites."""
    counts = np.array(encoder.class_counts, dtype=np.float64)
    if config.class_weight != "balanced" or not len(counts):
        return np.ones(len(data.targets))
    each = counts.sum() / (len(counts) * np.maximum(counts, 1.0))
    return np.asarray(each[data.targets.numpy()])


def _loss(
    outputs: NDArray[np.float32], targets: NDArray[Any], weights: NDArray[np.float64]
) -> float:
    """Return the mean cross-entropy, or squared error."""
    raw = outputs.astype(np.float64)
    if raw.shape[1] == 1:
        return float(np.average((raw[:, 0] - targets) ** 2, weights=weights))
    top = raw.max(axis=1)
    log_sum = top + np.log(np.exp(raw - top[:, None]).sum(axis=1))
    return float(np.average(log_sum - raw[np.arange(len(raw)), targets], weights=weights))
