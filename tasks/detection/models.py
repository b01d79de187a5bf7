"""Detectors by name, and local files of weights to start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tasks.contract import ModelSpec
from tasks.detection import torchvision_models, ultralytics_yolo
from tasks.detection.augment import Augment
from tasks.detection.network import DetectionModel, Network
from tasks.detection.schema import DetectionSchema
from tasks.errors import ConfigError
from tasks.tabular.schema import suggest

YOLO = "yolo"
COMMON: dict[str, Any] = {"weights": None, "augment": {}}
DEFAULTS: dict[str, dict[str, Any]] = {
    name: defaults | COMMON
    for name, defaults in {
        YOLO: ultralytics_yolo.DEFAULTS,
        **torchvision_models.DEFAULTS,
    }.items()
}


def build_model(spec: ModelSpec, schema: DetectionSchema, seed: int) -> DetectionModel:
    """Return a freshly initialised detector, the same for the same seed.

    ``model.params.weights`` is not read here: sites build too, and the organiser's file is not
    theirs to open. See ``start_from_file``.

    Raises
    ------
    ConfigError
        If the architecture or a parameter does not exist, or a value does not fit.
    """
    if spec.name not in DEFAULTS:
        raise ConfigError(f"model '{spec.name}' does not exist{suggest(spec.name, DEFAULTS)}")
    defaults = DEFAULTS[spec.name]
    for key in spec.params:
        if key not in defaults:
            raise ConfigError(
                f"model '{spec.name}' has no parameter '{key}'{suggest(str(key), defaults)}"
            )
    params = {**defaults, **spec.params}
    if params["weights"] is not None and not isinstance(params["weights"], str):
        raise ConfigError(f"model.params.weights is {params['weights']!r}; expected a file")
    augment = Augment.from_mapping(params["augment"])
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when made
        torch.manual_seed(seed)
        network: Network
        if spec.name == YOLO:
            network = ultralytics_yolo.build_yolo(params, schema)
        else:
            network = torchvision_models.build_torchvision(spec.name, params, schema)
    return DetectionModel(network, schema, augment)


def start_from_file(model: DetectionModel, spec: ModelSpec) -> int:
    """Load what fits of ``model.params.weights``, a local ``.safetensors`` or ``.pt`` file.

    Weights whose name and shape are the model's are taken (a head for other classes is not);
    backbone files of torchvision, named without the detector's prefix, are taken as well.

    Returns
    -------
    int
        Number of arrays taken; 0 if no file is named.

    Raises
    ------
    ConfigError
        If the file is absent, damaged or fits nowhere.
    """
    given = spec.params.get("weights")
    if given is None:
        return 0
    path = Path(str(given))
    if not path.is_file():
        raise ConfigError(f"model.params.weights: {path}: no such file")
    found = _read(path, spec.name)
    arrays, taken = model.arrays(), 0
    for name, array in arrays.items():
        value = next((found[key] for key in _names(name) if key in found), None)
        if value is not None and tuple(value.shape) == array.shape:
            arrays[name] = value.detach().to(torch.float32).numpy().astype(np.float32)
            taken += 1
    if not taken:
        raise ConfigError(f"model.params.weights: no weight of {path} fits '{spec.name}'")
    model.load(arrays)
    return taken


def _read(path: Path, name: str) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"model.params.weights: {path} is damaged: {error}") from None
    if path.suffix not in (".pt", ".pth"):
        raise ConfigError(f"model.params.weights: {path} is neither .safetensors nor .pt")
    if name == YOLO:
        return ultralytics_yolo.read_checkpoint(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"model.params.weights: {path}: not read: {reason}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"model.params.weights: {path} holds no weights by name")
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}


def _names(name: str) -> tuple[str, ...]:
    """Return a weight's name here, and in a file of the backbone alone."""
    body = name.removeprefix("backbone.body.")
    return name, body, f"features.{body}"
