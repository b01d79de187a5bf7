"""What a segmentation use case declares: classes and their mask values, picture size, scoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fl_common.errors import ConfigError
from tasks.images.augment import IGNORED, Augmentation, parse_augmentations
from tasks.images.checks import (
    POOLED,
    number,
    one_of,
    read_classes,
    read_normalisation,
    require_known,
)
from tasks.images.issues import POLICIES
from tasks.images.pixels import Geometry
from tasks.images.read import MAX_PIXELS, MOST_PIXELS

MAX_CLASSES = 64
MAX_TOLERANCE = 20
Colour = tuple[int, int, int]
Values = tuple[int | Colour, ...]


@dataclass(frozen=True)
class SegmentationSchema:
    """A use case's pictures and masks, the same for every site.

    Parameters
    ----------
    classes : tuple of str
        Classes in their order.
    values : tuple of int, or of (red, green, blue)
        Each class's value in a mask; as numbers by default, 0, 1, 2...
    ignore : tuple of int, or of (red, green, blue)
        Values of pixels without a label.
    image_size : int, pixels
        Side of the square that a model sees; masks are scored in their own size.
    channels : {1, 3}
    resize : {"pad", "stretch"}
    mean, std : tuple of float or None
        Of values from 0 to 1; None: of all sites' training pixels, pooled.
    augment : tuple of (name, arguments)
        torchvision transforms, in training only; masks are moved along.
    boundary_tolerance : int, pixels
        How far apart two boundaries may be to agree.
    on_invalid : {"refuse", "drop"}
        What a bad picture or mask does to its site.
    max_pixels : int
        Largest picture that is decoded.
    bit_depth : int or None, 8 to 16
        Bits that grey 16-bit pixels use; None: what each file says, else 16.
    """

    classes: tuple[str, ...]
    values: Values
    ignore: Values = (IGNORED,)
    image_size: int = 128
    channels: int = 3
    resize: str = "pad"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: tuple[Augmentation, ...] = ()
    boundary_tolerance: int = 2
    on_invalid: str = "refuse"
    max_pixels: int = MAX_PIXELS
    bit_depth: int | None = None

    @classmethod
    def from_mapping(cls, schema: Mapping[str, Any]) -> SegmentationSchema:
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
        if len(classes) > MAX_CLASSES:
            raise ConfigError(f"usecase.classes names {len(classes)}; at most {MAX_CLASSES}")
        values = _values(given.pop("values", None), classes)
        coloured = isinstance(values[0], tuple)
        ignore = given.pop("ignore", [] if coloured else [IGNORED])
        rule, augment = given.pop("normalise", POOLED), given.pop("augment", [])
        for key, value in given.items():
            _CHECKS[key](f"usecase.{key}", value)
        mean, std = read_normalisation(rule, given.get("channels", cls.channels))
        return cls(
            classes,
            values,
            _ignored(ignore, values),
            mean=mean,
            std=std,
            augment=parse_augmentations(augment),
            **given,
        )

    @property
    def geometry(self) -> Geometry:
        """The picture that a model sees."""
        return Geometry(self.image_size, self.channels, self.resize)

    @property
    def coloured(self) -> bool:
        """Whether masks are told by colours rather than numbers."""
        return isinstance(self.values[0], tuple)


def _values(given: Any, classes: tuple[str, ...]) -> Values:
    if given is None:
        return tuple(range(len(classes)))
    if not isinstance(given, Mapping) or {str(key) for key in given} != set(classes):
        raise ConfigError(
            f"usecase.values is {given!r}; expected a number or colour for each class, as "
            f"{{{classes[0]}: 0, ...}} or {{{classes[0]}: [0, 0, 0], ...}}"
        )
    by_name = {str(key): value for key, value in given.items()}
    values = _parsed("values", [by_name[name] for name in classes])
    if len(set(values)) < len(values):
        raise ConfigError("usecase.values gives two classes the same value")
    return values


def _ignored(given: Any, values: Values) -> Values:
    listed = given if isinstance(given, list | tuple) else [given]
    if not listed:
        return ()
    ignore = _parsed("ignore", list(listed))
    if isinstance(ignore[0], tuple) is not isinstance(values[0], tuple):
        raise ConfigError("usecase.ignore and usecase.values must both be numbers or both colours")
    return tuple(v for v in ignore if v not in values)


def _parsed(key: str, given: list[Any]) -> Values:
    if all(type(value) is int and 0 <= value <= 65535 for value in given):
        return tuple(given)
    if all(
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in value)
        for value in given
    ):
        return tuple((int(v[0]), int(v[1]), int(v[2])) for v in given)
    raise ConfigError(
        f"usecase.{key} holds {given!r}; expected numbers from 0 to 65535, or colours as [255,0,0]"
    )


_CHECKS = {
    "image_size": number(8, 2048, whole=True),
    "channels": one_of(1, 3),
    "resize": one_of("pad", "stretch"),
    "boundary_tolerance": number(0, MAX_TOLERANCE, whole=True),
    "on_invalid": one_of(*POLICIES),
    "bit_depth": number(8, 16, whole=True),
    "max_pixels": number(1, MOST_PIXELS, whole=True),
}
