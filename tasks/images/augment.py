"""Augmentations by name: a list of torchvision transforms that a use case may ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from fl_common.errors import ConfigError
from fl_common.words import suggest

Augmentation = tuple[str, tuple[tuple[str, Any], ...]]
"""A transform's name and its arguments."""
ALLOWED = (
    *("RandomHorizontalFlip", "RandomVerticalFlip", "RandomRotation", "RandomAffine"),
    *("RandomPerspective", "RandomCrop", "RandomResizedCrop", "ElasticTransform"),
    *("ColorJitter", "RandomGrayscale", "RandomInvert", "RandomPosterize", "RandomSolarize"),
    *("RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize", "RandomErasing"),
    *("GaussianBlur", "RandAugment", "TrivialAugmentWide", "AugMix"),
)
"""The only transforms that a use case can name; none reads a file or runs given code."""
FILLING = ("RandomRotation", "RandomAffine", "RandomPerspective", "RandomCrop", "ElasticTransform")
"""Those that leave parts of the result without a source."""
IGNORED = 255
"""Value of a mask where nothing is known."""


def parse_augmentations(value: Any) -> tuple[Augmentation, ...]:
    """Check and freeze ``usecase.augment``: ``[{name: RandomRotation, degrees: 10}, ...]``.

    Raises
    ------
    ConfigError
        If a transform is not allowed or refuses its arguments.
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise ConfigError(f"usecase.augment is {value!r}; expected a list of transforms")
    steps = []
    for entry in value:
        step = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(step, Mapping) or not isinstance(step.get("name"), str):
            raise ConfigError(f"usecase.augment: {entry!r}; expected {{name: RandomRotation, ...}}")
        arguments = {str(k): _frozen(v) for k, v in step.items() if k != "name"}
        _make(step["name"], arguments)
        steps.append((step["name"], tuple(arguments.items())))
    return tuple(steps)


def plain(augmentations: Sequence[Augmentation]) -> list[dict[str, Any]]:
    """Return augmentations as JSON values, which ``parse_augmentations`` reads back."""
    return [
        {"name": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in arguments}}
        for name, arguments in augmentations
    ]


class Augment:
    """Transforms in a row; every picture draws its own chance from PyTorch's global generator.

    Raises
    ------
    ConfigError
        If a picture of ``shape`` (c, h, w) does not come out in the same shape.
    """

    def __init__(
        self,
        augmentations: Sequence[Augmentation],
        shape: tuple[int, int, int],
        *,
        masks: bool = False,
    ) -> None:
        self._steps = [_make(name, dict(given), masks=masks) for name, given in augmentations]
        if not self._steps:
            return
        with torch.random.fork_rng(devices=[]):
            try:
                blank = torch.zeros(1, *shape, dtype=torch.uint8)
                result = self.pairs(blank, blank[:, 0])[0] if masks else self(blank)
            except (RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:160]
                raise ConfigError(f"usecase.augment fails on a blank picture: {reason}") from None
        if tuple(result.shape[1:]) != shape:
            raise ConfigError(
                f"usecase.augment turns pictures of {shape} into {tuple(result.shape[1:])}; set "
                f"its size to {list(shape[1:])}"
            )

    def __bool__(self) -> bool:
        return bool(self._steps)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Transform pictures (b, c, h, w), uint8, one by one."""
        return torch.stack([self.one(picture) for picture in pictures])

    def one(self, picture: torch.Tensor) -> torch.Tensor:
        """Transform one picture (c, h, w)."""
        for step in self._steps:
            picture = step(picture)
        return picture

    def pairs(
        self, pictures: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform pictures (b, c, h, w) and move their masks (b, h, w), uint8, along.

        Where a moved picture has no source, its mask is ``IGNORED``.
        """
        moved = []
        for picture, mask in zip(pictures, masks, strict=True):
            pair: Any = (tv_tensors.Image(picture), tv_tensors.Mask(mask))
            for step in self._steps:
                pair = step(*pair)
            moved.append([part.as_subclass(torch.Tensor) for part in pair])
        return torch.stack([m[0] for m in moved]), torch.stack([m[1] for m in moved])


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _make(name: str, arguments: Mapping[str, Any], *, masks: bool = False) -> Any:
    if name not in ALLOWED:
        raise ConfigError(f"usecase.augment: '{name}' is no transform here{suggest(name, ALLOWED)}")
    if masks and name in FILLING:
        fill = {tv_tensors.Image: arguments.get("fill", 0), tv_tensors.Mask: IGNORED}
        arguments = {**arguments, "fill": fill}
    try:
        return getattr(v2, name)(**arguments)
    except (TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"usecase.augment: {name}: {reason}") from None
