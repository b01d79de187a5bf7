"""Differentially private SGD, on opacus.

Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang: "Deep Learning with Differential Privacy",
CCS 2016 (arXiv:1607.00133), Algorithm 1::

    L <- each of the n examples with probability q = B / n              (Poisson, not shuffled)
    g <- (sum_{i in L} g_i min(1, C / ||g_i||) + N(0, (sigma C)^2)) / B

``g`` then goes the way of any gradient: the strategy's terms and the optimiser are
post-processing. Poisson batches are what the accountant of the sampled Gaussian mechanism is for;
shuffled ones would need another.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from fl_common.errors import ConfigError
from tasks.contract import LocalObjective, LocalOutcome, TrainConfig
from tasks.networks.training import (
    BatchLoss,
    TorchModel,
    check_config,
    diverged,
    objective_step,
    optimizer_step,
)

_OVERWRITES = {torch.Tensor.add_: torch.add, torch.Tensor.mul_: torch.mul}


class _OutOfPlace(TorchFunctionMode):
    """Let ``a += b`` and activations in place make new tensors: opacus' hooks keep the old ones."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and args[0].requires_grad:
            func = _OVERWRITES.get(func, func)
            if options.get("inplace"):
                options["inplace"] = False
        return func(*args, **options)


def train_privately(
    model: TorchModel,
    num_examples: int,
    batch_loss: BatchLoss,
    config: TrainConfig,
    *,
    objective: LocalObjective,
) -> LocalOutcome:
    """Train ``model`` in place.

    Batches and noise are drawn from the operating system's randomness: the run's seed is known to
    the server, which could take the noise off again. The loss of the outcome is 0, because the
    true one would leave without noise.

    Parameters
    ----------
    batch_loss : callable
        Mean over the examples of a loss that depends on no other example.

    Raises
    ------
    ConfigError
        If opacus is missing or cannot take the model apart.
    DivergedError
        If a weight is not finite.
    """
    check_config(config)
    rate, steps = config.private_steps(num_examples)
    adjust, step = objective_step(model, objective), optimizer_step(model.parameters, config)
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    device = next(model.module.parameters()).device
    noise = torch.Generator(device).manual_seed(secrets.randbits(63))
    with per_example_gradients(model, config, rate * num_examples, noise) as noised:
        for _ in range(steps):
            index = torch.nonzero(torch.rand(num_examples, generator=generator) < rate).flatten()
            gradients = noised(batch_loss, index)
            with torch.no_grad():
                adjust(gradients)
                step(gradients)
    arrays = model.arrays()
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise diverged("weight", math.nan, steps)
    return LocalOutcome(arrays, num_examples, steps, 0.0)


@contextmanager
def per_example_gradients(
    model: TorchModel, config: TrainConfig, expected_batch: float, generator: torch.Generator
) -> Iterator[Any]:
    """Yield a function from (batch loss, example numbers) to clipped and noised gradients.

    ``generator`` draws the noise, on the model's device.
    """
    try:
        from opacus import GradSampleModule  # type: ignore[import-untyped]
        from opacus.optimizers import DPOptimizer  # type: ignore[import-untyped]
    except ImportError:
        cure = "pip install 'fedleague[privacy]'"
        raise ConfigError(f"privacy=local_dpsgd needs opacus: {cure}") from None
    parameters, noise = model.parameters, config.dp
    if noise is None:
        raise ConfigError("train.dp is not set")
    try:
        hooked = GradSampleModule(model.module, loss_reduction="mean")
    except NotImplementedError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"opacus cannot take this model apart: {reason}") from None
    optimizer = DPOptimizer(
        torch.optim.SGD(parameters, lr=0.0),  # never steps; the run's own optimiser does
        noise_multiplier=noise.noise_multiplier,
        max_grad_norm=noise.max_grad_norm,
        expected_batch_size=expected_batch,
        generator=generator,
    )

    def noised(batch_loss: BatchLoss, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        optimizer.zero_grad()
        if len(index):
            with warnings.catch_warnings():
                # the inputs need no gradient; opacus' hooks do not ask for it
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                with _OutOfPlace():
                    loss = batch_loss(index)
                loss.backward()  # type: ignore[no-untyped-call]
        else:  # a Poisson batch may be empty; its noise must be added all the same
            for parameter in parameters:
                setattr(parameter, "grad_sample", torch.zeros((0, *parameter.shape)))  # noqa: B010
        optimizer.pre_step()
        return tuple(p.grad.clone() for p in parameters if p.grad is not None)

    model.module.train()  # opacus' hooks are asleep otherwise
    try:
        yield noised
    finally:
        model.module.eval()
        optimizer.zero_grad()
        for parameter in parameters:
            parameter.grad = None
        hooked.to_standard_module()
