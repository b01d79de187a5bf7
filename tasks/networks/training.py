"""Local training of any PyTorch module: one loop, its settings and its errors, for every task.

The task says how a mini-batch becomes a loss; batch order, clipping, the strategy's objective,
the optimiser and the checks are the same everywhere. Nothing is rebuilt or copied per call but
the weights, since thousands of simulated clients share one model object: no data loader, no
module, and no optimiser object for SGD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import nn

from fl_common.errors import ConfigError, DivergedError
from fl_common.words import suggest
from tasks.contract import Arrays, LocalObjective, LocalOutcome, TrainConfig

Gradients = tuple[torch.Tensor, ...]
Step = Callable[[Gradients], None]
BatchLoss = Callable[[torch.Tensor], torch.Tensor]
"""(example numbers (b,), int64) -> mean loss over these examples, a scalar."""
LARGEST = 1e30
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")


class TorchModel(Protocol):
    """What the loop needs of a ``contract.Model``."""

    @property
    def module(self) -> nn.Module:
        """The network; its parameters that require no gradient are left alone."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters to train, in the order of ``module.named_parameters()``."""

    def arrays(self) -> Arrays:
        """Return the weights by name (copies)."""

    def check(self, arrays: Arrays) -> None:
        """Raise ReplyError unless names, shapes and dtypes are those of the weights."""


def run_training(
    model: TorchModel,
    num_examples: int,
    batch_loss: BatchLoss,
    config: TrainConfig,
    *,
    objective: LocalObjective,
    generator: torch.Generator,
) -> LocalOutcome:
    """Train ``model`` in place.

    Each epoch visits the examples in a permutation drawn from ``generator``; a last short batch
    is kept. The loss's gradient is clipped first, then the objective's terms are added, then the
    optimiser steps.

    Raises
    ------
    ConfigError
        If the optimiser or a number of ``config`` does not fit.
    DivergedError
        If a loss or a weight is not finite.
    ReplyError
        If the objective's arrays do not fit the model.
    """
    check_config(config)
    if config.dp is not None:
        raise ConfigError("this task has no per-example gradients; set privacy to another mode")
    parameters, module = model.parameters, model.module
    adjust, step = objective_step(model, objective), optimizer_step(parameters, config)
    total, rows, steps, epoch = 0.0, 0, 0, -1
    module.train()
    try:
        for current, index in _batches(num_examples, config, generator):
            if current != epoch:
                total, rows, epoch = 0.0, 0, current
            value = batch_loss(index)
            gradients = torch.autograd.grad(value, parameters)
            number = value.item()
            if not math.isfinite(number):
                raise diverged("loss", number, steps)
            with torch.no_grad():
                if config.grad_clip is not None:
                    _clip(gradients, config.grad_clip)
                adjust(gradients)
                step(gradients)
            total, rows, steps = total + number * len(index), rows + len(index), steps + 1
    finally:
        module.eval()
    arrays = model.arrays()
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise diverged("weight", math.nan, steps)
    return LocalOutcome(arrays, num_examples, steps, total / rows if rows else 0.0)


def _batches(
    size: int, config: TrainConfig, generator: torch.Generator
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (epoch, example numbers); epochs go on until ``local_steps``, if given."""
    limit = config.local_steps
    epoch = done = 0
    while done < limit if limit is not None else epoch < config.local_epochs:
        order = torch.randperm(size, generator=generator)
        for index in torch.split(order, config.batch_size):
            yield epoch, index
            done += 1
            if done == limit:
                return
        epoch += 1


def check_config(config: TrainConfig) -> None:
    """Check the optimiser, and that float32 holds the numbers.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    if config.optimizer not in OPTIMIZERS:
        near = suggest(str(config.optimizer), OPTIMIZERS)
        raise ConfigError(f"train.optimizer '{config.optimizer}' does not exist{near}")
    for key in ("lr", "momentum", "weight_decay", "grad_clip"):
        value = getattr(config, key) or 0.0
        if value > LARGEST:
            raise ConfigError(f"train.{key} is {value!r}; expected at most {LARGEST:g}")


def diverged(what: str, value: float, steps: int) -> DivergedError:
    """Return the error that ends a training."""
    return DivergedError(
        f"training diverged: {what} is {value} after {steps} steps; "
        "lower train.lr or set train.grad_clip"
    )


def _clip(gradients: Gradients, limit: float) -> None:
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])).item()
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)


def objective_step(model: TorchModel, objective: LocalObjective) -> Step:
    """Return what adds ``linear + proximal_mu * (w - anchor)`` to the gradients in place."""
    linear = anchor = None
    parameters, mu = model.parameters, objective.proximal_mu

    def tensors(arrays: Arrays) -> list[torch.Tensor]:
        model.check(arrays)
        names = [n for n, p in model.module.named_parameters() if p.requires_grad]
        pairs = zip(names, parameters, strict=True)
        return [torch.tensor(arrays[name]).to(weight.device) for name, weight in pairs]

    if objective.linear is not None:
        linear = tensors(objective.linear)
    if mu:
        given = objective.anchor
        anchor = [p.detach().clone() for p in parameters] if given is None else tensors(given)

    def adjust(gradients: Gradients) -> None:
        if linear is not None:
            for gradient, term in zip(gradients, linear, strict=True):
                gradient.add_(term)
        if anchor is not None:
            for gradient, weight, origin in zip(gradients, parameters, anchor, strict=True):
                gradient.add_(weight - origin, alpha=mu)

    return adjust


def optimizer_step(parameters: list[torch.nn.Parameter], config: TrainConfig) -> Step:
    """Return what moves the parameters along gradients, with the configured optimiser."""
    if config.optimizer == "sgd":
        return _sgd(parameters, config)
    lr, decay = config.lr, config.weight_decay
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(parameters, lr, weight_decay=decay),
        "adamw": lambda: torch.optim.AdamW(parameters, lr, weight_decay=decay),
        "rmsprop": lambda: torch.optim.RMSprop(
            parameters, lr, momentum=config.momentum, weight_decay=decay
        ),
    }
    optimizer = makers[config.optimizer]()

    def step(gradients: Gradients) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    return step


def _sgd(parameters: list[torch.nn.Parameter], config: TrainConfig) -> Step:
    """Return SGD in the operations of ``torch.optim.SGD``, without making one per call."""
    lr, momentum, decay = config.lr, config.momentum, config.weight_decay
    buffers: list[torch.Tensor] = []

    def step(gradients: Gradients) -> None:
        if decay:
            for gradient, parameter in zip(gradients, parameters, strict=True):
                gradient.add_(parameter, alpha=decay)
        if momentum and buffers:
            for buffer, gradient in zip(buffers, gradients, strict=True):
                buffer.mul_(momentum).add_(gradient)
        elif momentum:
            buffers.extend(gradients)  # fresh tensors, ours to keep
        for parameter, change in zip(parameters, buffers or gradients, strict=True):
            parameter.add_(change, alpha=-lr)

    return step
