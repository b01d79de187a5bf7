"""Segmentation networks by name: a small U-Net of our own, and every one of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from fl_common.errors import ConfigError
from fl_common.plugins import plugin_names
from fl_common.words import suggest
from tasks.contract import Fitted, ModelSpec
from tasks.images.network import ImageNetwork, require_input
from tasks.images.network_helpers import COMMON, given_params, set_input_channels, widths
from tasks.images.norm_layers import set_norms
from tasks.images.preprocess import Preprocess
from tasks.networks.custom import TensorSpec, build_module, find_builder
from tasks.networks.seeds import seeded

UNET = "unet"
TORCHVISION = tuple(torchvision.models.list_models(module=torchvision.models.segmentation))
_UNET_DEFAULTS: dict[str, Any] = {"channels": [16, 32, 64], "norm": "group", "pretrained": None}


class SegmentationModel(ImageNetwork):
    """A network with its preprocessing (``contract.Model``)."""

    def __init__(self, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__(module)
        self.preprocess = preprocess


class UNet(nn.Module):
    """Encoder and decoder with skips, two convolutions a stage.

    Parameters
    ----------
    channels : sequence of int
        Width of each stage; every stage but the last halves the picture.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox (2015). U-Net: convolutional networks for biomedical image
    segmentation. MICCAI, arXiv:1505.04597.
    """

    def __init__(self, inputs: int, outputs: int, channels: list[int]) -> None:
        super().__init__()
        down = zip([inputs, *channels], channels, strict=False)
        self.down = nn.ModuleList(_stage(before, after) for before, after in down)
        up = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(_stage(skip + below, skip) for skip, below in up)
        self.head = nn.Conv2d(channels[0], outputs, 1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return logits (b, classes, h, w) for pictures (b, c, h, w)."""
        skips: list[torch.Tensor] = []
        maps = pictures
        for stage in self.down:
            maps = stage(F.max_pool2d(maps, 2) if skips else maps)
            skips.append(maps)
        skips.pop()
        for stage in self.up:
            skip = skips.pop()
            maps = F.interpolate(maps, size=skip.shape[2:], mode="nearest")
            maps = stage(torch.cat([skip, maps], dim=1))
        logits: torch.Tensor = self.head(maps)
        return logits


def build_model(spec: ModelSpec, fitted: Fitted, seed: int) -> SegmentationModel:
    """Return a freshly initialised network, the same for the same seed; nothing is downloaded.

    Raises
    ------
    ConfigError
        If the architecture or a parameter does not exist, or a value or the picture's size does
        not fit.
    """
    known = (UNET, *TORCHVISION)
    if (build := find_builder(spec.name, known)) is not None:
        preprocess = Preprocess(fitted, masks=True)
        shape, classes = preprocess.geometry.shape, tuple(preprocess.classes)
        outputs = TensorSpec((len(classes), *shape[1:]), classes)
        module = build_module(build, spec, TensorSpec(shape), outputs, seed)
        return SegmentationModel(module, preprocess)
    if spec.name not in known:
        known = (*known, *plugin_names("models"))
        raise ConfigError(f"model '{spec.name}' does not exist{suggest(spec.name, known)}")
    params = given_params(spec, _UNET_DEFAULTS if spec.name == UNET else COMMON)
    preprocess = Preprocess(fitted, masks=True)
    with seeded(seed):  # layers draw from the global generator when made
        module = _module(spec.name, params, preprocess)
        set_norms(module, params["norm"])
    model = SegmentationModel(module, preprocess)
    require_input(model, preprocess.geometry.shape, f"'{spec.name}'")
    return model


def _module(name: str, params: Mapping[str, Any], preprocess: Preprocess) -> nn.Module:
    channels, outputs = preprocess.geometry.channels, len(preprocess.classes)
    if name == UNET:
        return UNet(channels, outputs, widths("model.params.channels", params["channels"]))
    module: nn.Module = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=outputs
    )
    set_input_channels(module, channels)
    return module


def _stage(before: int, after: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
