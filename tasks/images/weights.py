"""Pretrained weights of an image network, from the organiser's own local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tasks.contract import Array, ModelSpec
from tasks.errors import ConfigError
from tasks.images.network import ImageNetwork

KEY = "model.params.weights"
MIN_SHARE = 0.5
"""Least share of a model's arrays that a file must fit, or it is of another architecture."""


def start_from_file(model: ImageNetwork, spec: ModelSpec) -> int:
    """Load what fits of ``model.params.weights``; for the organiser, never called at a site.

    An array is taken if name and shape are the model's, so that a head for other classes is not;
    a first layer for RGB becomes one for grey by adding up its channels.

    Returns
    -------
    int
        Number of arrays taken; 0 if no file is named.

    Raises
    ------
    ConfigError
        If the file is absent, damaged or of another architecture.
    """
    given = spec.params.get("weights")
    if given is None:
        return 0
    path = Path(str(given))
    found = read_weights(path)
    arrays, taken = model.arrays(), 0
    for name, array in arrays.items():
        value = _fitting(found.get(name), array.shape)
        if value is not None:
            arrays[name] = value
            taken += 1
    if taken < MIN_SHARE * len(arrays):
        raise ConfigError(
            f"{KEY}: {taken} of {len(arrays)} arrays of '{spec.name}' fit those of {path}; give a "
            "file of the same architecture"
        )
    model.load(arrays)
    return taken


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a ``.safetensors`` file, or a PyTorch state dict without running code from it.

    Raises
    ------
    ConfigError
        If the file is absent, damaged, holds more than arrays, or has another ending.
    """
    if not path.is_file():
        raise ConfigError(f"{KEY}: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in (".pt", ".pth"):
            raise ConfigError(f"{KEY}: {path} is neither .safetensors nor .pt nor .pth")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except ConfigError:
        raise
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{KEY}: {path} is damaged: {error}") from None
    except Exception as error:  # the unpickler has many words for what it refuses
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{KEY}: {path} is not read: {reason}") from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ConfigError(f"{KEY}: {path} holds no weights by name")
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}


def _fitting(value: torch.Tensor | None, shape: tuple[int, ...]) -> Array | None:
    if value is None:
        return None
    value = value.detach().to(torch.float32)
    if value.ndim == 4 and len(shape) == 4 and value.shape[1] == 3 and shape[1] == 1:
        value = value.sum(dim=1, keepdim=True)
    return value.numpy() if tuple(value.shape) == shape else None
