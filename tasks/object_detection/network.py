"""A detector as the federation sees it: weights by name, a loss, and detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fl_common.errors import DivergedError
from tasks.metrics.detection import Detections
from tasks.networks.layers import NORMS, named_statistics
from tasks.networks.weights import ExchangedWeights, default_device
from tasks.object_detection.augment import Augment
from tasks.object_detection.pixels import Square, Target, boxed
from tasks.object_detection.schema import DetectionSchema

SCORE_FLOOR = 0.001
"""Least score of a detection that counts at all: average precision needs the low ones too."""

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Boxes (n, 4) in the square, scores (n,), labels (n,), by falling score."""


class Network(Protocol):
    """What a family of detectors provides."""

    @property
    def module(self) -> nn.Module:
        """The PyTorch module; its parameters are what is learned."""

    @property
    def head(self) -> tuple[str, ...]:
        """Prefixes of the parameters that belong to the head."""

    @property
    def single_value_maps(self) -> bool:
        """Whether a normalised feature map may have a single pixel."""

    def loss(self, images: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
        """Return the mean loss of a batch; images (b, 3, s, s) in [0, 1] beside the module.

        The targets are on the CPU.
        """

    def detect(self, images: torch.Tensor) -> list[Found]:
        """Return each picture's detections after suppression, with scores above the floor.

        Raises
        ------
        DivergedError
            If a score or a box is not finite.
        """


class DetectionModel(ExchangedWeights):
    """A detector with its preprocessing (``contract.Model``).

    What travels are the trainable parameters and the running statistics of batch normalisation;
    constants (the integral of YOLO's box distribution) and counters do not. It lives on the GPU
    where there is one.
    """

    def __init__(
        self,
        network: Network,
        schema: DetectionSchema,
        augment: Augment,
        device: torch.device | None = None,
    ) -> None:
        self.network = network
        self.schema = schema
        self.augment = augment
        self.device = device or default_device()
        self.module.to(self.device)
        named = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        statistics = dict(named_statistics(self.module))
        super().__init__({n: p.detach() for n, p in named.items()} | statistics)
        self.module.eval()

    @property
    def module(self) -> nn.Module:
        """The PyTorch module."""
        return self.network.module

    def layer_kinds(self) -> dict[str, str]:
        """Return each weight's kind: ``norm``, ``head`` or ``body``."""
        norms = {name for name, layer in self.module.named_modules() if isinstance(layer, NORMS)}

        def kind(name: str) -> str:
            if name.rpartition(".")[0] in norms:
                return "norm"
            return "head" if name.startswith(self.network.head) else "body"

        return {name: kind(name) for name in self._state}

    def loss(self, images: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
        """Return the mean loss of a batch; images (b, 3, s, s) in [0, 1], on any device."""
        return self.network.loss(images.to(self.device), targets)

    def detect_squares(self, images: torch.Tensor) -> list[Found]:
        """Return each square's detections, in its pixels; images (b, 3, s, s), on any device.

        Raises
        ------
        DivergedError
            If a score or a box is not finite.
        """
        found = self.network.detect(images.to(self.device))
        return [(boxes.cpu(), scores.cpu(), labels.cpu()) for boxes, scores, labels in found]

    def boxed(self, picture: Image.Image) -> Square:
        """Return a picture in mode RGB as the model sees it."""
        return boxed(picture, self.schema.image_size, keep_ratio=self.schema.keeps_ratio)

    def detect(self, squares: Sequence[Square]) -> list[Detections]:
        """Return what the model finds in each square, in the pixels of its picture."""
        with torch.inference_mode():
            found = self.detect_squares(torch.stack([square.pixels for square in squares]))
        results = []
        for (boxes, scores, labels), square in zip(found, squares, strict=True):
            corners = square.frame.back(boxes.numpy(), square.width, square.height)
            results.append(Detections(corners, scores.numpy(), labels.numpy()))
        return results


def require_finite(*tensors: torch.Tensor) -> None:
    """Raise DivergedError unless every value is a number."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise DivergedError(
            "the model's boxes or scores are not finite; lower train.lr or set train.grad_clip"
        )


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise with the running statistics, although the module is in training."""
    norms = [m for m in module.modules() if isinstance(m, _NormBase) and m.training]
    for layer in norms:
        layer.eval()
    try:
        yield
    finally:
        for layer in norms:
            layer.train()
