"""What an image classification use case declares: classes, picture size, normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from fl_common.errors import ConfigError
from fl_common.words import canonical, suggest
from tasks.images.augment import Augmentation, parse_augmentations
from tasks.images.checks import (
    POOLED,
    number,
    one_of,
    read_classes,
    read_normalisation,
    require_known,
    text,
)
from tasks.images.issues import POLICIES
from tasks.images.pixels import RESIZES, Geometry
from tasks.images.read import MAX_PIXELS, MOST_PIXELS

MAX_SIZE = 2048


@dataclass(frozen=True)
class Subgroup:
    """Pictures that are also scored on their own: of one class, or by a manifest's column."""

    name: str
    label: str | None = None
    column: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSchema:
    """A use case's pictures, the same for every site.

    Parameters
    ----------
    classes : tuple of str
        Classes in their order. A label is compared as text, where ``1`` and ``1.0`` are the same.
    image_size : int, pixels
        Side of the square that a model sees.
    channels : {1, 3}
        Grey, or red, green and blue.
    resize : {"pad", "crop", "stretch"}
        How a picture that is not square becomes one.
    mean, std : tuple of float or None
        Of values from 0 to 1; None: of all sites' training pixels, pooled.
    augment : tuple of (name, arguments)
        torchvision transforms, in training only.
    subgroups : tuple of Subgroup
    id_column, label_column : str
        Columns of a CSV manifest.
    images_key, labels_key : str or None
        Arrays of an ``.npz`` file; None: ``images`` and ``labels``, or MedMNIST's names.
    on_invalid : {"refuse", "drop"}
        What a bad picture or label does to its site.
    max_pixels : int
        Largest picture that is decoded.
    bit_depth : int or None, 8 to 16
        Bits that grey 16-bit pixels use; None: what each file says, else 16.
    """

    classes: tuple[str, ...]
    image_size: int = 64
    channels: int = 3
    resize: str = "pad"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: tuple[Augmentation, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()
    id_column: str = "data_id"
    label_column: str = "label"
    images_key: str | None = None
    labels_key: str | None = None
    on_invalid: str = "refuse"
    max_pixels: int = MAX_PIXELS
    bit_depth: int | None = None

    @classmethod
    def from_mapping(cls, schema: Mapping[str, Any]) -> ImageSchema:
        """Check and freeze the plain values of a use case's ``schema``.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value does not fit.
        """
        known = [f.name for f in fields(cls) if f.name not in ("mean", "std")] + ["normalise"]
        require_known(schema, known)
        given = {key: value for key, value in schema.items() if value is not None}
        classes = read_classes(given.pop("classes", None))
        rule, groups = given.pop("normalise", POOLED), given.pop("subgroups", {})
        augment = parse_augmentations(given.pop("augment", []))
        for key, value in given.items():
            _CHECKS[key](f"usecase.{key}", value)
        channels = given.get("channels", cls.channels)
        mean, std = read_normalisation(rule, channels)
        subgroups = _subgroups(groups, classes)
        return cls(classes, mean=mean, std=std, augment=augment, subgroups=subgroups, **given)

    @property
    def geometry(self) -> Geometry:
        """The picture that a model sees."""
        return Geometry(self.image_size, self.channels, self.resize)

    @cached_property
    def class_index(self) -> dict[str, int]:
        """Class number by canonical text."""
        return {canonical(name): i for i, name in enumerate(self.classes)}


def _subgroups(value: Any, classes: tuple[str, ...]) -> tuple[Subgroup, ...]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"usecase.subgroups is {value!r}; expected a mapping of names to rules")
    return tuple(_subgroup(str(name), rule, classes) for name, rule in value.items())


def _subgroup(name: str, rule: Any, classes: tuple[str, ...]) -> Subgroup:
    where = f"usecase.subgroups.{name}"
    if not name or "/" in name:
        raise ConfigError(f"{where}: the name must be a text without '/'")
    keys = set(rule) if isinstance(rule, Mapping) else set()
    if keys == {"class"}:
        known = {canonical(label): label for label in classes}
        label = canonical(rule["class"])
        if label not in known:
            raise ConfigError(f"{where}: class '{label}' does not exist{suggest(label, classes)}")
        return Subgroup(name, label=known[label])
    if keys == {"column", "values"} and isinstance(rule["values"], list | tuple):
        values = tuple(canonical(value) for value in rule["values"])
        return Subgroup(name, column=str(rule["column"]), values=values)
    raise ConfigError(f"{where} is {rule!r}; expected {{class: X}} or {{column: C, values: [...]}}")


_CHECKS = {
    "image_size": number(4, MAX_SIZE, whole=True),
    "channels": one_of(1, 3),
    "resize": one_of(*RESIZES),
    "id_column": text,
    "label_column": text,
    "images_key": text,
    "labels_key": text,
    "on_invalid": one_of(*POLICIES),
    "bit_depth": number(8, 16, whole=True),
    "max_pixels": number(1, MOST_PIXELS, whole=True),
}
