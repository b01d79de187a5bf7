"""Local training on rows held in memory, with little overhead per call."""

from __future__ import annotations

import torch

from tasks.contract import LocalObjective, LocalOutcome, TrainConfig
from tasks.networks.dp_sgd import train_privately
from tasks.networks.losses import Loss
from tasks.networks.seeds import seeded
from tasks.networks.training import BatchLoss, check_config, run_training
from tasks.tabular.data import Tensors
from tasks.tabular.models import TabularModel

__all__ = ["check_config", "train_model"]


def train_model(
    model: TabularModel,
    data: Tensors,
    loss: Loss,
    config: TrainConfig,
    *,
    objective: LocalObjective,
    seed: int,
) -> LocalOutcome:
    """Train ``model`` in place; batch order and dropout are drawn from ``seed``.

    Raises
    ------
    ConfigError, DivergedError, ReplyError
        As ``torch_training.run_training``.
    """
    generator = torch.Generator().manual_seed(seed)
    for dropout in model.dropouts:
        dropout.generator = generator
    inputs, targets = data

    def batch_loss(index: torch.Tensor) -> torch.Tensor:
        return loss(model.forward(inputs[index]), targets[index])

    if model.is_custom:
        with seeded(seed):
            return _run(model, len(targets), batch_loss, config, objective, generator)
    return _run(model, len(targets), batch_loss, config, objective, generator)


def _run(
    model: TabularModel,
    num_rows: int,
    batch_loss: BatchLoss,
    config: TrainConfig,
    objective: LocalObjective,
    generator: torch.Generator,
) -> LocalOutcome:
    if config.dp is not None:
        return train_privately(model, num_rows, batch_loss, config, objective=objective)
    return run_training(
        model, num_rows, batch_loss, config, objective=objective, generator=generator
    )
