"""What a picture goes through before a network, the same at every site."""

from __future__ import annotations

from typing import Any, Protocol

from tasks.contract import Fitted
from tasks.images.augment import Augment, Augmentation, parse_augmentations, plain
from tasks.images.pixels import Geometry, Normaliser, finalise_pixels
from tasks.stats import Stats


class PictureSchema(Protocol):
    """What every image use case declares about its pictures."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in their order."""

    @property
    def geometry(self) -> Geometry:
        """The picture that a model sees."""

    @property
    def mean(self) -> tuple[float, ...] | None:
        """By channel, of values from 0 to 1; None: pooled."""

    @property
    def std(self) -> tuple[float, ...] | None:
        """Spread by channel; None: pooled."""

    @property
    def augment(self) -> tuple[Augmentation, ...]:
        """Transforms in training."""


class Preprocess:
    """What a picture goes through before the network, compiled from ``Fitted``.

    Attributes
    ----------
    classes : list of str
    class_counts : list of int
        Training pictures (or pixels) of each class over all sites.
    geometry : Geometry
    normalise : Normaliser
    augment : Augment
        In training only; with ``masks`` it moves a mask along.
    """

    def __init__(self, fitted: Fitted, *, masks: bool = False) -> None:
        self.classes: list[str] = list(fitted["classes"])
        self.class_counts: list[int] = list(fitted["class_counts"])
        self.geometry = Geometry(fitted["image_size"], fitted["channels"], fitted["resize"])
        self.normalise = Normaliser(fitted["mean"], fitted["std"])
        self.augment = Augment(
            parse_augmentations(fitted["augment"]), self.geometry.shape, masks=masks
        )


def fitted_values(
    schema: PictureSchema, counts: list[int], colour: Stats | None = None
) -> dict[str, Any]:
    """Return everything that ``Preprocess`` reads, as JSON values.

    Parameters
    ----------
    counts : list of int, length c
        Training pictures or pixels of each class.
    colour : Stats or None
        Pooled ``pixel_stats``; without any, pixels are only scaled to 0..1 unless the schema fixes
        their mean and spread.
    """
    channels = schema.geometry.channels
    mean, std = [0.0] * channels, [1.0] * channels
    if schema.mean is not None and schema.std is not None:
        mean, std = list(schema.mean), list(schema.std)
    elif colour:
        mean, std = finalise_pixels(colour)
    return {
        "classes": list(schema.classes),
        "class_counts": counts,
        "image_size": schema.geometry.size,
        "channels": channels,
        "resize": schema.geometry.resize,
        "mean": mean,
        "std": std,
        "augment": plain(schema.augment),
    }
