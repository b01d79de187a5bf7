"""YOLO through the ``ultralytics`` package, which is AGPL-3.0: the only module that imports it.

The package gives the architectures and the loss; decoding pictures, augmentation, the training
loop and suppression are ours. It is imported when a YOLO model is first asked for, offline and
without its settings file, telemetry, downloads or changes to the process.

(``tasks.object_detection.yolo`` reads YOLO's label format, and needs nothing of this.)
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.images.weights import KEY, load_checkpoint
from tasks.object_detection.network import Found, require_finite
from tasks.object_detection.pixels import Target
from tasks.object_detection.schema import DetectionSchema
from tasks.object_detection.suppression import suppress

DEFAULTS: dict[str, Any] = {
    **{"config": "yolo11n.yaml", "depth": None, "width": None},
    "pretrained": None,
}
HEADS = ("Detect", "v10Detect")
GAINS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=1)
"""Weights of the loss's three terms, ultralytics' defaults."""
FIRST_REACH = 2.0
"""Cells of the map from a place to each side of the first box there."""
_NAME = re.compile(r"(yolov?\d+)([a-z]?)((?:-[a-z0-9]+)*)\.yaml")
_QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}


class YoloNetwork:
    """An ultralytics detection model (``network.Network``)."""

    single_value_maps = False

    def __init__(self, module: nn.Module, schema: DetectionSchema) -> None:
        self.module = module
        self._schema = schema
        self._loss: Any = None  # made on the device where the module is by then
        self.head = (f"model.{len(module.model) - 1}.",)  # type: ignore[arg-type]

    def loss(self, images: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
        """Return ultralytics' box, class and distribution loss, for one picture.

        Its criterion moves the targets to the module's device.
        """
        if self._loss is None:
            self._loss = self.module.init_criterion()  # type: ignore[operator]
        size = images.shape[-1]
        boxes = torch.cat([target.boxes for target in targets])
        centres = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        counts = torch.tensor([len(target.labels) for target in targets])
        batch = {
            "batch_idx": torch.repeat_interleave(torch.arange(len(targets)), counts).float(),
            "cls": torch.cat([target.labels for target in targets]).float()[:, None],
            "bboxes": centres / size,
        }
        total, _ = self._loss(self.module(images), batch)
        return total.sum() / len(targets)  # type: ignore[no-any-return]

    def detect(self, images: torch.Tensor) -> list[Found]:
        """Return each picture's detections, suppressed as the use case says."""
        found = self.module(images)[0]  # (b, 4 + c, a)
        require_finite(found)
        results = []
        for picture in found.transpose(1, 2):
            centre, half = picture[:, :2], picture[:, 2:4] / 2
            boxes = torch.cat([centre - half, centre + half], dim=1)
            schema = self._schema
            results.append(suppress(boxes, picture[:, 4:], schema.nms_iou, schema.max_detections))
        return results


def build_yolo(params: Mapping[str, Any], schema: DetectionSchema) -> YoloNetwork:
    """Make a YOLO detector with random weights from the global generator.

    Parameters
    ----------
    params : mapping
        ``config``: a name such as ``yolo11n.yaml``; ``depth``, ``width``: multiples instead of
        those of the name's size letter (width 0.125 is half a nano).

    Raises
    ------
    ConfigError
        If the package is absent, or a value does not fit.
    """
    layout = _layout(params)
    with _quiet():
        tasks = _package("ultralytics.nn.tasks")
        try:
            module = tasks.DetectionModel(cfg=layout, nc=len(schema.classes), verbose=False)
        except (ValueError, ZeroDivisionError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"model.params: {params['config']} cannot be made with depth={params['depth']}, "
                f"width={params['width']} ({error}); choose larger ones"
            ) from None
    stride = int(max(module.stride))
    if schema.image_size % stride or schema.image_size < 2 * stride:
        raise ConfigError(
            f"usecase.image_size is {schema.image_size}; {params['config']} needs a multiple of "
            f"{stride} from {2 * stride}"
        )
    _start_with_small_boxes(module.model[-1])
    module.args = GAINS
    module.end2end = False  # detections are suppressed by the use case's settings, not by a head
    return YoloNetwork(module, schema)


def _start_with_small_boxes(head: Any) -> None:
    """Let the first boxes reach two cells to each side, instead of seven and a half.

    ultralytics' loss assigns no target where a predicted box hardly overlaps the object, so that
    from random weights objects far smaller than the first boxes are learned late or never. Boxes
    of 32, 64 and 128 pixels, by map, are near to most objects.
    """
    if head.reg_max == 1:  # YOLO26 predicts distances, not their distribution
        return
    steps = math.log(FIRST_REACH / (1 + FIRST_REACH)) * torch.arange(head.reg_max)
    for name in ("cv2", "one2one_cv2"):
        for branch in getattr(head, name, None) or ():
            with torch.no_grad():
                branch[-1].bias.copy_(steps.repeat(4))


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read an ultralytics ``.pt`` file; nothing but ultralytics' own layers may be unpickled.

    Raises
    ------
    ConfigError
        If the file is damaged, or holds anything but a YOLO model, naming what.
    """
    with _quiet():
        _package("ultralytics.nn.tasks")
        with torch.serialization.safe_globals(_layer_classes()):
            content = load_checkpoint(path)
    kept = content
    if isinstance(content, Mapping):
        kept = content.get("ema") or content.get("model") or content
    if isinstance(kept, nn.Module):
        kept = kept.float().state_dict()
    named = kept.items() if isinstance(kept, Mapping) else ()
    arrays = {str(name): value for name, value in named if isinstance(value, torch.Tensor)}
    if not arrays:
        raise ConfigError(f"{KEY}: {path} holds no YOLO model; give a .pt file of ultralytics")
    return arrays


def _layout(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the architecture by name; from the package only, never from a path or a message."""
    name, files = str(params["config"]), _layouts()
    found = _NAME.fullmatch(name)
    path = files.get(name)
    if path is None and found is not None:
        path = files.get(f"{found[1]}{found[3]}.yaml")
    if found is None or path is None:
        raise ConfigError(f"model.params.config '{name}' does not exist{suggest(name, files)}")
    layout: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if layout["head"][-1][2] not in HEADS:
        raise ConfigError(f"model.params.config '{name}' is no plain detector; try yolo11n.yaml")
    scales = layout.get("scales") or {"": [layout["depth_multiple"], layout["width_multiple"]]}
    letter = found[2] or next(iter(scales))
    if letter not in scales:
        raise ConfigError(
            f"model.params.config '{name}' has no size '{letter}'; sizes: {', '.join(scales)}"
        )
    scale = list(scales[letter])
    for place, key in enumerate(("depth", "width")):
        value = params[key]
        if value is not None:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value <= 4:
                raise ConfigError(f"model.params.{key} is {value!r}; expected above 0 to 4")
            scale[place] = value
    return layout | {"scales": {"": scale}, "scale": "", "yaml_file": name}


@lru_cache(maxsize=1)
def _layouts() -> dict[str, Path]:
    with _quiet():
        _package("ultralytics.nn.tasks")
        root = Path(_package("ultralytics").__file__).parent / "cfg" / "models"
    return {path.name: path for path in sorted(root.rglob("*.yaml"))}


def _layer_classes() -> list[Any]:
    from ultralytics.nn import modules, tasks
    from ultralytics.utils import IterableSimpleNamespace

    spaces = (nn, modules, modules.block, modules.conv, modules.head, tasks)
    found = {v for space in spaces for v in vars(space).values() if isinstance(v, type)}
    layers = [kind for kind in found if issubclass(kind, nn.Module)]
    return [
        *layers,
        torch.Size,
        SimpleNamespace,
        IterableSimpleNamespace,
    ]  # settings, as plain values


def _package(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ConfigError(
            "model 'yolo' needs the ultralytics package (AGPL-3.0): pip install 'fedleague[yolo]'"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Import without a trace: the package changes much that belongs to the process."""
    if "ultralytics.nn.tasks" in sys.modules:
        yield
        return
    environment, save = dict(os.environ), torch.save
    options = np.get_printoptions()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        os.environ.update(_QUIET)
        os.environ.setdefault("YOLO_CONFIG_DIR", folder)
        try:
            yield
        finally:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)
            torch.save = save
            torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
            np.set_printoptions(**options)
