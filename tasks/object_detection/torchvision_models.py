"""Faster R-CNN, RetinaNet, FCOS and SSDLite from torchvision, with random weights.

Nothing is downloaded. The model sees the use case's square: torchvision's own resizing is switched
off by equal sizes, and its suppression is set from the use case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torchvision.models import mobilenet
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.object_detection.network import SCORE_FLOOR, Found, require_finite
from tasks.object_detection.pixels import Target
from tasks.object_detection.schema import DetectionSchema

MIN_SIDE = 64
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
MOBILENETS = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
TINY = "tiny"
BACKBONES = (TINY, *RESNETS, *MOBILENETS)
TINY_CHANNELS = 32
DEFAULTS: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"backbone": "resnet50", "anchor_sizes": [32, 64, 128, 256, 512]},
    "retinanet": {"backbone": "resnet50", "anchor_sizes": [32, 64, 128, 256, 512]},
    "fcos": {"backbone": "resnet50"},
    "ssdlite": {},
}


class TorchvisionNetwork:
    """A torchvision detector (``network.Network``).

    Parameters
    ----------
    background : bool
        Whether class 0 of the module means background.
    """

    def __init__(
        self, module: nn.Module, head: tuple[str, ...], *, background: bool, single_value_maps: bool
    ) -> None:
        self.module = module
        self.head = head
        self.single_value_maps = single_value_maps
        self._first = int(background)

    def loss(self, images: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
        """Return the sum of the detector's losses."""
        device = images.device
        marks = [
            {"boxes": t.boxes.to(device), "labels": (t.labels + self._first).to(device)}
            for t in targets
        ]
        losses: dict[str, torch.Tensor] = self.module(list(images), marks)
        return torch.stack([value.reshape(()) for value in losses.values()]).sum()

    def detect(self, images: torch.Tensor) -> list[Found]:
        """Return each picture's detections; torchvision suppresses them."""
        results = []
        for found in self.module(list(images)):
            require_finite(found["boxes"], found["scores"])
            results.append((found["boxes"], found["scores"], found["labels"] - self._first))
        return results


class TinyBackbone(nn.Module):
    """Four strided convolutions with group normalisation; maps at 8 and 16 pixels a cell."""

    out_channels = TINY_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, TINY_CHANNELS, TINY_CHANNELS)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.GroupNorm(8, after),
                nn.ReLU(),
            )
            for before, after in pairwise(widths)
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return maps by name for images (b, 3, s, s)."""
        maps = {}
        for number, stage in enumerate(self.stages):
            images = stage(images)
            if number >= 2:
                maps[str(number)] = images
        return maps


def build_torchvision(
    name: str, params: Mapping[str, Any], schema: DetectionSchema
) -> TorchvisionNetwork:
    """Make a detector with random weights from the global generator.

    Raises
    ------
    ConfigError
        If a backbone does not exist or a value does not fit.
    """
    if schema.image_size < MIN_SIDE and params.get("backbone") != TINY:
        raise ConfigError(
            f"usecase.image_size is {schema.image_size}; model '{name}' needs {MIN_SIDE}"
        )
    return _BUILDERS[name](params, schema)


def _faster_rcnn(params: Mapping[str, Any], schema: DetectionSchema) -> TorchvisionNetwork:
    backbone = _backbone(params["backbone"])
    module = FasterRCNN(
        backbone,
        num_classes=len(schema.classes) + 1,
        rpn_anchor_generator=_anchors(params, schema, backbone, scales=1),
        box_score_thresh=SCORE_FLOOR,
        box_nms_thresh=schema.nms_iou,
        box_detections_per_img=schema.max_detections,
        **_sizes(schema),
    )
    return TorchvisionNetwork(module, ("roi_heads.",), background=True, single_value_maps=False)


def _retinanet(params: Mapping[str, Any], schema: DetectionSchema) -> TorchvisionNetwork:
    backbone = _backbone(params["backbone"], one_stage=True)
    anchors = _anchors(params, schema, backbone, scales=3)
    head = RetinaNetHead(
        backbone.out_channels, anchors.num_anchors_per_location()[0], len(schema.classes)
    )
    module = RetinaNet(
        backbone,
        num_classes=len(schema.classes),
        anchor_generator=anchors,
        head=head,
        **_limits(schema),
        **_sizes(schema),
    )
    return TorchvisionNetwork(module, ("head.",), background=False, single_value_maps=False)


def _fcos(params: Mapping[str, Any], schema: DetectionSchema) -> TorchvisionNetwork:
    backbone = _backbone(params["backbone"], one_stage=True)
    classes, extra = len(schema.classes), {}
    if params["backbone"] == TINY:
        extra = {
            "head": FCOSHead(backbone.out_channels, 1, classes, num_convs=1),
            "anchor_generator": AnchorGenerator(((16,), (32,)), ((1.0,),) * 2),
        }
    module = FCOS(backbone, num_classes=classes, **extra, **_limits(schema), **_sizes(schema))
    return TorchvisionNetwork(module, ("head.",), background=False, single_value_maps=False)


def _ssdlite(params: Mapping[str, Any], schema: DetectionSchema) -> TorchvisionNetwork:
    module = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(schema.classes) + 1
    )
    side = schema.image_size
    grey = [0.5, 0.5, 0.5]
    module.transform = GeneralizedRCNNTransform(
        side, side, grey, grey, size_divisible=1, fixed_size=(side, side)
    )
    for key, value in _limits(schema).items():
        setattr(module, key, value)
    return TorchvisionNetwork(module, ("head.",), background=True, single_value_maps=True)


_Builder = Callable[[Mapping[str, Any], DetectionSchema], TorchvisionNetwork]
_BUILDERS: dict[str, _Builder] = {
    "fasterrcnn": _faster_rcnn,
    "retinanet": _retinanet,
    "fcos": _fcos,
    "ssdlite": _ssdlite,
}


def _backbone(name: Any, *, one_stage: bool = False) -> nn.Module:
    """Return a backbone with a feature pyramid; the tiny one has none."""
    if name not in BACKBONES:
        raise ConfigError(
            f"model.params.backbone '{name}' does not exist{suggest(str(name), BACKBONES)}"
        )
    if name == TINY:
        return TinyBackbone()
    pyramid: nn.Module
    extra: dict[str, Any] = {"extra_blocks": LastLevelP6P7(256, 256)} if one_stage else {}
    if name in RESNETS:
        if one_stage:
            extra["returned_layers"] = [2, 3, 4]
        pyramid = resnet_fpn_backbone(
            backbone_name=name,
            weights=None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=5,
            **extra,
        )
        return pyramid
    features = getattr(mobilenet, name)(weights=None).features
    strided = [0, *(i for i, block in enumerate(features) if getattr(block, "_is_cn", False))]
    stages = len(strided) + 1
    pyramid = mobilenet_backbone(
        backbone_name=name,
        weights=None,
        fpn=True,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=stages,
        returned_layers=list(range(stages - 3, stages)),
        **extra,
    )
    return pyramid


def _anchors(
    params: Mapping[str, Any], schema: DetectionSchema, backbone: nn.Module, *, scales: int
) -> AnchorGenerator:
    """Return anchors for each map of the pyramid: the last so many of the given sizes."""
    sizes = params["anchor_sizes"]
    if (
        not isinstance(sizes, list | tuple)
        or not sizes
        or not all(type(size) is int and 0 < size <= 4096 for size in sizes)
    ):
        raise ConfigError(f"model.params.anchor_sizes is {sizes!r}; expected pixels, as [32, 64]")
    with torch.no_grad():
        training = backbone.training
        maps = len(backbone.eval()(torch.zeros(1, 3, MIN_SIDE, MIN_SIDE)))
        backbone.train(training)
    if len(sizes) < maps:
        raise ConfigError(
            f"model.params.anchor_sizes has {len(sizes)} sizes; this backbone has {maps} maps"
        )
    steps = [2 ** (step / 3) for step in range(scales)]
    by_map = tuple(tuple(int(size * step) for step in steps) for size in sizes[:maps])
    return AnchorGenerator(by_map, ((0.5, 1.0, 2.0),) * maps)


def _sizes(schema: DetectionSchema) -> dict[str, int]:
    return {"min_size": schema.image_size, "max_size": schema.image_size}


def _limits(schema: DetectionSchema) -> dict[str, Any]:
    return {
        "score_thresh": SCORE_FLOOR,
        "nms_thresh": schema.nms_iou,
        "detections_per_img": schema.max_detections,
    }
