"""Image classifiers by name: a small one of our own, and every one of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torchvision
from torch import nn

from fl_common.errors import ConfigError
from fl_common.plugins import plugin_names
from fl_common.words import suggest
from tasks.contract import Fitted, ModelSpec
from tasks.images.dp_compat import mixes_examples
from tasks.images.network import ImageNetwork, require_input
from tasks.images.network_helpers import (
    COMMON,
    given_params,
    probability,
    set_input_channels,
    widths,
)
from tasks.images.norm_layers import set_norms
from tasks.images.preprocess import Preprocess
from tasks.networks.custom import TensorSpec, build_module, find_builder
from tasks.networks.seeds import seeded

SIMPLE = "simple_cnn"
ANY = "torchvision_classifier"
PRESETS = ("resnet18", "mobilenet_v3_small", "efficientnet_b0")
_SIMPLE_DEFAULTS: dict[str, Any] = {
    **{"channels": [32, 64], "hidden": 128, "dropout": 0.0},
    **{"norm": "group", "pretrained": None},
}
_EXTRA: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


class ImageClassifier(ImageNetwork):
    """A network with its preprocessing (``contract.Model``)."""

    def __init__(self, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__(module)
        self.preprocess = preprocess

    @property
    def trains_privately(self) -> bool:
        """Whether no layer mixes the pictures of a mini-batch."""
        return not mixes_examples(self.module)


def build_model(spec: ModelSpec, fitted: Fitted, seed: int) -> ImageClassifier:
    """Return a freshly initialised classifier, the same for the same seed.

    ``spec.name`` is ``simple_cnn``, a classifier of torchvision such as ``resnet18``,
    ``torchvision_classifier`` with its parameter ``architecture``, or a network of the user's
    (``networks.custom``). The head is made for the classes, the first convolution for the
    channels. Nothing is downloaded.

    Raises
    ------
    ConfigError
        If the architecture or a parameter does not exist, or a value or the picture's size does
        not fit.
    """
    preprocess = Preprocess(fitted)
    shipped = (SIMPLE, ANY, *architectures())
    if (build := find_builder(spec.name, shipped)) is not None:
        inputs = TensorSpec(preprocess.geometry.shape)
        outputs = TensorSpec((len(preprocess.classes),), tuple(preprocess.classes))
        return ImageClassifier(build_module(build, spec, inputs, outputs, seed), preprocess)
    with seeded(seed):  # layers draw from the global generator when made
        if spec.name == SIMPLE:
            params = given_params(spec, _SIMPLE_DEFAULTS)
            module = _simple_cnn(params, preprocess)
        else:
            module, params = _torchvision(spec, preprocess)
        set_norms(module, params["norm"])
    model = ImageClassifier(module, preprocess)
    require_input(model, preprocess.geometry.shape, f"'{spec.name}'")
    return model


@lru_cache(maxsize=1)
def architectures() -> tuple[str, ...]:
    """Return every classifier that torchvision has."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def _torchvision(spec: ModelSpec, preprocess: Preprocess) -> tuple[nn.Module, dict[str, Any]]:
    known = architectures()
    name = spec.name
    if name == ANY:
        params = given_params(spec, {**COMMON, "architecture": "resnet18"})
        name = params["architecture"]
        if name not in known:
            raise ConfigError(
                f"model.params.architecture '{name}' does not exist{suggest(str(name), known)}"
            )
    elif name not in known:
        options = (SIMPLE, *PRESETS, ANY, *plugin_names("models"))
        raise ConfigError(f"model '{name}' does not exist{suggest(name, (*options, *known))}")
    else:
        params = given_params(spec, COMMON)
    extra = dict(_EXTRA.get(name, {}))
    if name.startswith("vit_"):
        extra["image_size"] = preprocess.geometry.size
    try:
        module = torchvision.models.get_model(
            name, weights=None, num_classes=len(preprocess.classes), **extra
        )
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"model '{name}' cannot be made: {reason}") from None
    set_input_channels(module, preprocess.geometry.channels)
    return module, params


def _simple_cnn(params: Mapping[str, Any], preprocess: Preprocess) -> nn.Module:
    """Return stages of convolution, normalisation, ReLU and pooling, then two linear layers."""
    hidden = widths("model.params.hidden", params["hidden"])[0]
    dropout = probability("model.params.dropout", params["dropout"])
    channels, side = preprocess.geometry.channels, preprocess.geometry.size
    layers: list[nn.Module] = []
    for width in widths("model.params.channels", params["channels"]):
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    side = min(side, 4)
    layers += [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    layers += [nn.Linear(channels * side * side, hidden), nn.ReLU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    layers.append(nn.Linear(hidden, len(preprocess.classes)))
    return nn.Sequential(*layers)
