"""A network that does not ship with fedleague: a plugin's, or ``module:function``.

Either is a function of the input, the output and the configured parameters::

    def my_net(inputs, outputs, hidden=32):
        return nn.Sequential(
            nn.Linear(inputs.shape[0], hidden), nn.ReLU(), nn.Linear(hidden, outputs.shape[0])
        )
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fl_common.errors import ConfigError
from fl_common.plugins import find_plugin
from tasks.contract import ModelSpec
from tasks.networks.seeds import seeded

MAX_PARAMETERS = 2**28
"""1 GB of weights: a job that asks for more is a mistake, or means harm."""
PRETRAINED = "pretrained"
"""A file to start from is the task's business, not the network's."""


@dataclass(frozen=True)
class TensorSpec:
    """One example's input or output, without the batch.

    Parameters
    ----------
    shape : tuple of int
        Of a table ``(features,)``; of a picture ``(channels, height, width)``; of class logits
        ``(classes,)`` or, for each pixel, ``(classes, height, width)``; of a number ``(1,)``.
    names : tuple of str
        Features or classes along the first axis; empty where they have no names. At launch, when
        no site has been asked yet, a table has one made-up feature.
    """

    shape: tuple[int, ...]
    names: tuple[str, ...] = ()


BuildModule = Callable[..., nn.Module]
"""(input, output, **parameters) -> a module from (b, *input.shape) to (b, *output.shape)."""


def find_builder(name: str, shipped: Collection[str]) -> BuildModule | None:
    """Return what makes the network ``name``; None if neither a plugin nor a path names one.

    Sites ask their policy before (``policy.plugins``, ``policy.custom_code``).

    Raises
    ------
    ConfigError
        If the plugin or the function does not exist or cannot be imported.
    """
    if (plugin := find_plugin("models", name, shipped)) is not None:
        build: BuildModule = plugin.load()
        return build
    module, colon, function = name.partition(":")
    if not colon:
        return None
    try:
        found: BuildModule = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever a stranger's module does while it is imported
        raise ConfigError(
            f"model '{name}' is not installed here: {type(error).__name__}: {_line(error)}"
        ) from error
    return found


def build_module(
    build: BuildModule, spec: ModelSpec, inputs: TensorSpec, outputs: TensorSpec, seed: int
) -> nn.Module:
    """Return a freshly initialised module, the same for the same seed, in evaluation mode.

    Raises
    ------
    ConfigError
        If it cannot be made, is no module of float32 weights, is too large, or does not turn
        examples of ``inputs.shape`` into ``outputs.shape``.
    """
    params = {key: value for key, value in spec.params.items() if key != PRETRAINED}
    with seeded(seed):  # layers draw from the global generator when made
        try:
            module = build(inputs, outputs, **params)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"model '{spec.name}' with {params} cannot be made: "
                f"{type(error).__name__}: {_line(error)}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model '{spec.name}' is no torch.nn.Module but {type(module).__name__}"
            )
        _check_weights(spec, module)
        module.eval()
        _check_output(spec, module, inputs, outputs)
    return module


def _check_weights(spec: ModelSpec, module: nn.Module) -> None:
    parameters = dict(module.named_parameters())
    if not any(p.requires_grad for p in parameters.values()):
        raise ConfigError(f"model '{spec.name}' has no weight to train")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            raise ConfigError(
                f"model '{spec.name}': weight '{name}' is {parameter.dtype}; make it float32"
            )
    if (count := sum(p.numel() for p in parameters.values())) > MAX_PARAMETERS:
        raise ConfigError(
            f"model '{spec.name}' with {dict(spec.params)} has {count:,} weights; "
            f"at most {MAX_PARAMETERS:,} are allowed"
        )


def _check_output(
    spec: ModelSpec, module: nn.Module, inputs: TensorSpec, outputs: TensorSpec
) -> None:
    """Run two blank examples through the module."""
    try:
        with torch.no_grad():
            found = module(torch.zeros(2, *inputs.shape))
    except Exception as error:
        raise ConfigError(
            f"model '{spec.name}' cannot take inputs of shape {inputs.shape}: {_line(error)}"
        ) from error
    result = found["out"] if isinstance(found, Mapping) and "out" in found else found
    shape: Any = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
    if shape != (2, *outputs.shape):
        raise ConfigError(
            f"model '{spec.name}' turns 2 inputs of shape {inputs.shape} into {shape}; "
            f"the task needs {(2, *outputs.shape)}"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
