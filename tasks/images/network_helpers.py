"""Networks by name: what every image task needs to make one and start it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.contract import ModelSpec

COMMON: dict[str, Any] = {"norm": "batch", "pretrained": None}


def given_params(spec: ModelSpec, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's parameters over their defaults.

    ``weights`` is only checked to be a name: sites build too, and the organiser's file is not
    theirs to open. See ``weights.start_from_file``.

    Raises
    ------
    ConfigError
        If a parameter does not exist.
    """
    for key in spec.params:
        if key not in defaults:
            near = suggest(str(key), defaults)
            raise ConfigError(f"model '{spec.name}' has no parameter '{key}'{near}")
    params = {**defaults, **spec.params}
    if params["pretrained"] is not None and not isinstance(params["pretrained"], str):
        raise ConfigError(f"model.params.pretrained is {params['pretrained']!r}; expected a file")
    return params


def widths(key: str, value: Any, most: int = 4096) -> list[int]:
    """Check a list of layer widths."""
    sizes = [value] if isinstance(value, int) else value
    if (
        not isinstance(sizes, list | tuple)
        or not sizes
        or not all(type(size) is int and 0 < size <= most for size in sizes)
    ):
        raise ConfigError(f"{key} is {value!r}; expected widths from 1 to {most}, as [32, 64]")
    return list(sizes)


def probability(key: str, value: Any) -> float:
    """Check a share of units to drop."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"{key} is {value!r}; expected from 0 to below 1")
    return float(value)


def set_input_channels(module: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for ``channels``, with fresh weights."""
    for parent in module.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, nn.Conv2d):
                if layer.in_channels != channels:
                    setattr(parent, name, _same_but(layer, channels))
                return


def _same_but(layer: nn.Conv2d, channels: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
    )
