"""Detectors by name, and local files of weights to start from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fl_common.errors import ConfigError
from fl_common.plugins import find_plugin
from fl_common.words import quoted, suggest
from tasks.contract import ModelSpec
from tasks.images.weights import KEY, MIN_SHARE, read_state
from tasks.object_detection import torchvision_models, ultralytics_yolo
from tasks.object_detection.augment import Augment
from tasks.object_detection.network import DetectionModel, Network
from tasks.object_detection.schema import DetectionSchema

log = logging.getLogger("fedleague.server")

YOLO = "yolo"
BACKBONE = "backbone.body."
"""What torchvision's detectors put in front of the names in a file of the backbone."""
COMMON: dict[str, Any] = {"pretrained": None, "augment": {}}
DEFAULTS: dict[str, dict[str, Any]] = {
    name: defaults | COMMON
    for name, defaults in {
        YOLO: ultralytics_yolo.DEFAULTS,
        **torchvision_models.DEFAULTS,
    }.items()
}


def build_model(spec: ModelSpec, schema: DetectionSchema, seed: int) -> DetectionModel:
    """Return a freshly initialised detector, the same for the same seed.

    ``model.params.pretrained`` is not read here: sites build too, and the organiser's file is not
    theirs to open. See ``start_from_file``.

    Raises
    ------
    ConfigError
        If the architecture or a parameter does not exist, or a value does not fit.
    """
    if ":" in spec.name or find_plugin("models", spec.name, DEFAULTS) is not None:
        raise ConfigError(
            f"model '{spec.name}': object detection takes no network of your own, because a "
            f"detector holds its losses; choose {quoted(DEFAULTS)}"
        )
    if spec.name not in DEFAULTS:
        raise ConfigError(f"model '{spec.name}' does not exist{suggest(spec.name, DEFAULTS)}")
    defaults = DEFAULTS[spec.name]
    for key in spec.params:
        if key not in defaults:
            raise ConfigError(
                f"model '{spec.name}' has no parameter '{key}'{suggest(str(key), defaults)}"
            )
    params = {**defaults, **spec.params}
    if params["pretrained"] is not None and not isinstance(params["pretrained"], str):
        raise ConfigError(f"model.params.pretrained is {params['pretrained']!r}; expected a file")
    augment = Augment.from_mapping(params["augment"])
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when made
        torch.manual_seed(seed)
        network: Network
        if spec.name == YOLO:
            network = ultralytics_yolo.build_yolo(params, schema)
        else:
            network = torchvision_models.build_torchvision(spec.name, params, schema)
    return DetectionModel(network, schema, augment)


def start_from_file(model: DetectionModel, spec: ModelSpec) -> tuple[int, int]:
    """Load what fits of ``model.params.pretrained``, a local ``.safetensors`` or ``.pt`` file.

    Arrays whose name and shape are the model's are taken (a head for other classes is not);
    backbone files of torchvision, named without the detector's prefix, are taken as well.

    Returns
    -------
    pair of int
        Number of arrays taken, and of all; 0 of all if no file is named.

    Raises
    ------
    ConfigError
        If the file is absent or damaged, or is of another architecture: it does not give the whole
        backbone or, where the network has none of its own, half of the arrays.
    """
    given = spec.params.get("pretrained")
    arrays = model.arrays()
    if given is None:
        return 0, len(arrays)
    path = Path(str(given))
    found = _read(path, spec.name)
    taken = set()
    for name, array in arrays.items():
        value = next((found[key] for key in _names(name) if key in found), None)
        if value is not None and tuple(value.shape) == array.shape:
            arrays[name] = value.detach().to(torch.float32).numpy().astype(np.float32)
            taken.add(name)
    backbone = {name for name in arrays if name.startswith(BACKBONE)}
    enough = backbone <= taken if backbone else len(taken) >= MIN_SHARE * len(arrays)
    if not enough:
        raise ConfigError(
            f"{KEY}: {len(taken)} of {len(arrays)} arrays of '{spec.name}' fit those of {path}; "
            f"give a file of the same architecture{_meant(spec)}"
        )
    model.load(arrays)
    return len(taken), len(arrays)


def say_what_was_taken(taken: int, total: int, spec: ModelSpec) -> None:
    """Tell the organiser how much of the file is in the model."""
    rest = "" if taken == total else "; the others start from random values"
    path = spec.params["pretrained"]
    # a warning, because fl-server shows no lesser line
    log.warning("%s: %d of %d arrays taken from %s%s", KEY, taken, total, path, rest)


def _meant(spec: ModelSpec) -> str:
    """Name the parameter that decides the architecture."""
    for key in ("config", "backbone"):
        if key in DEFAULTS[spec.name]:
            value = spec.params.get(key, DEFAULTS[spec.name][key])
            return f", or set model.params.{key} (now {value}) to the file's"
    return ""


def _read(path: Path, name: str) -> Mapping[str, torch.Tensor]:
    if name == YOLO and path.suffix in (".pt", ".pth") and path.is_file():
        return ultralytics_yolo.read_checkpoint(path)
    return read_state(path)


def _names(name: str) -> tuple[str, ...]:
    """Return a weight's name here, and in a file of the backbone alone."""
    body = name.removeprefix(BACKBONE)
    return name, body, f"features.{body}"
