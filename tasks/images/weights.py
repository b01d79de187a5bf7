"""Pretrained weights of an image network, from the organiser's own local file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fl_common.errors import ConfigError
from tasks.contract import Array, ModelSpec
from tasks.images.network import ImageNetwork

KEY = "model.params.pretrained"
MIN_SHARE = 0.5
"""Least share of a model's arrays that a file must fit, or it is of another architecture."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys below which training scripts save the weights, beside epoch and optimiser."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put in front of every name."""
MAX_NAMED = 3


def start_from_file(model: ImageNetwork, spec: ModelSpec) -> int:
    """Load what fits of ``model.params.pretrained``; for the organiser, never called at a site.

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
    given = spec.params.get("pretrained")
    if given is None:
        return 0
    path = Path(str(given))
    found = read_state(path)
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


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read weights by name: a ``.safetensors`` file, or a PyTorch file without running its code.

    Taken are a state dict, one below a key of ``WRAPPERS`` as training scripts save it, and names
    with a prefix of ``PREFIXES`` in front; the prefix is dropped.

    Raises
    ------
    ConfigError
        If the file is absent, damaged, holds more than arrays, or has another ending.
    """
    if not path.is_file():
        raise ConfigError(f"{KEY}: {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{KEY}: {path} is damaged: {error}") from None
    elif path.suffix in (".pt", ".pth"):
        content = load_checkpoint(path)
    else:
        raise ConfigError(f"{KEY}: {path} is neither .safetensors nor .pt nor .pth")
    found = content if isinstance(content, Mapping) else {}
    for key in WRAPPERS:
        if isinstance(found.get(key), Mapping):
            found = found[key]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise ConfigError(f"{KEY}: {path} holds no weights by name; save model.state_dict()")
    return {_bare(name): value for name, value in tensors.items()}


def load_checkpoint(path: Path) -> Any:
    """Return what ``torch.save`` wrote, if it is arrays and plain values only.

    Classes that ``torch.serialization.safe_globals`` allows where this is called may be in it too.

    Raises
    ------
    ConfigError
        Naming what would have to be run, or that the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"{KEY}: {path}: {error.strerror or 'cannot be read'}") from None
    except Exception:  # PyTorch's own words advise to trust the file
        foreign = _foreign(path)
    if foreign:
        more = ", ..." if len(foreign) > MAX_NAMED else ""
        raise ConfigError(
            f"{KEY}: {path} is not read: it holds code or objects "
            f"({', '.join(foreign[:MAX_NAMED])}{more}) and not only arrays; save "
            "model.state_dict(), or a .safetensors file"
        )
    raise ConfigError(
        f"{KEY}: {path} is not read: it is damaged, or not written by torch.save; "
        "save model.state_dict() anew"
    )


def _foreign(path: Path) -> list[str]:
    """Return the classes and functions of a file that are not allowed; nothing is run."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # damaged, or of PyTorch's format before 1.6
        return []


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _fitting(value: torch.Tensor | None, shape: tuple[int, ...]) -> Array | None:
    if value is None:
        return None
    value = value.detach().to(torch.float32)
    if value.ndim == 4 and len(shape) == 4 and value.shape[1] == 3 and shape[1] == 1:
        value = value.sum(dim=1, keepdim=True)
    return value.numpy() if tuple(value.shape) == shape else None
