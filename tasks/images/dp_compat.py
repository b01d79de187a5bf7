"""Which image networks can be trained with differential privacy."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fl_common.errors import ConfigError
from tasks.contract import TrainConfig
from tasks.images.network import ImageNetwork
from tasks.images.norm_layers import FrozenNorm
from tasks.networks.dp_sgd import per_example_gradients


def mixes_examples(module: nn.Module) -> bool:
    """Say whether a layer's output for one picture depends on the others of its mini-batch."""
    return any(
        isinstance(layer, _NormBase) and not isinstance(layer, FrozenNorm)
        for layer in module.modules()
    )


def require_private(
    model: ImageNetwork, shape: tuple[int, int, int], config: TrainConfig, what: str
) -> None:
    """Take one private step on two blank pictures (c, h, w); the model's weights stay.

    Where opacus is not installed (an organiser's server), only the layers are looked at.

    Raises
    ------
    ConfigError
        If the model cannot be trained with differential privacy.
    """
    if mixes_examples(model.module):
        raise ConfigError(
            f"model '{what}' normalises over mini-batches, so that a picture's gradient depends on "
            "the others; set model.params.norm=group (or frozen) for privacy=local_dpsgd"
        )
    if importlib.util.find_spec("opacus") is None:
        return
    blank, generator = torch.zeros(2, *shape), torch.Generator(model.device).manual_seed(0)
    try:
        with per_example_gradients(model, config, 2.0, generator) as noised:
            noised(lambda rows: model.forward(blank[rows]).logsumexp(1).mean(), torch.arange(2))
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"model '{what}' cannot be trained with privacy=local_dpsgd ({reason}); choose another,"
            " as simple_cnn, or resnet18 with model.params.norm=group"
        ) from None
