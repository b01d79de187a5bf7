"""What a detection use case declares: classes, picture size, and how detections are decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fl_common.errors import ConfigError
from tasks.images.checks import number, one_of, require_known
from tasks.images.issues import POLICIES
from tasks.images.read import MAX_PIXELS


@dataclass(frozen=True)
class DetectionSchema:
    """A use case's pictures and boxes, the same for every site.

    Parameters
    ----------
    classes : tuple of str
        Classes in their order; a site's files are mapped by name.
    class_aliases : pairs of str and (str or None)
        Further names in the sites' files and the class that they mean; None: ignore the object.
    image_size : int, pixels
        Side of the square that a model sees.
    resize : {"pad", "stretch"}
        How a picture that is not square becomes one.
    score_threshold : float, in [0, 1]
        Least score of a detection for precision, recall, F1, mean overlap and predictions.
    nms_iou : float, in (0, 1]
        Overlap above which the lower-scored of two detections of one class is dropped.
    max_detections : int, 1 to 300
        Detections kept for an image, after suppression.
    on_invalid : {"refuse", "drop"}
        What a bad image, label or box does to its site.
    max_pixels : int
        Largest picture that is decoded.
    bit_depth : int or None, 8 to 16
        Bits that grey 16-bit pixels use; None: what each file says, else 16.
    """

    classes: tuple[str, ...]
    class_aliases: tuple[tuple[str, str | None], ...] = ()
    image_size: int = 320
    resize: str = "pad"
    score_threshold: float = 0.25
    nms_iou: float = 0.6
    max_detections: int = 100
    on_invalid: str = "refuse"
    max_pixels: int = MAX_PIXELS
    bit_depth: int | None = None

    @classmethod
    def from_mapping(cls, schema: Mapping[str, Any]) -> DetectionSchema:
        """Check and freeze the plain values of a use case's ``schema``.

        Raises
        ------
        ConfigError
            If a key is unknown or missing, or a value does not fit.
        """
        known = [field.name for field in fields(cls)]
        require_known(schema, known)
        given = {key: value for key, value in schema.items() if value is not None}
        classes = _classes(given.pop("classes", None))
        aliases = _aliases(given.pop("class_aliases", {}), classes)
        for key, value in given.items():
            _CHECKS[key](f"usecase.{key}", value)
        return cls(classes, aliases, **given)

    @property
    def keeps_ratio(self) -> bool:
        """Whether a picture keeps its aspect ratio."""
        return self.resize == "pad"

    @property
    def class_index(self) -> dict[str, int | None]:
        """Class number by every name that a site's files may use; None: ignore."""
        index: dict[str, int | None] = {name: i for i, name in enumerate(self.classes)}
        return {n: None if c is None else index[c] for n, c in self.class_aliases} | index


def _classes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise ConfigError("usecase.classes is missing; list the classes in their order")
    names = tuple(str(name) for name in value)
    if len(set(names)) != len(names):
        raise ConfigError("usecase.classes names a class twice")
    return names


def _aliases(value: Any, classes: tuple[str, ...]) -> tuple[tuple[str, str | None], ...]:
    if not isinstance(value, Mapping):
        raise ConfigError("usecase.class_aliases must map names to classes, {minibus: car}")
    for name, target in value.items():
        if target is not None and target not in classes:
            raise ConfigError(
                f"usecase.class_aliases: '{name}' means '{target}', which is no class"
            )
        if name in classes:
            raise ConfigError(f"usecase.class_aliases: '{name}' is a class already")
    return tuple((str(name), target) for name, target in value.items())


_CHECKS = {
    "image_size": number(32, 4096, whole=True),
    "resize": one_of("pad", "stretch"),
    "score_threshold": number(0, 1, whole=False),
    "nms_iou": number(0.01, 1, whole=False),
    "max_detections": number(1, 300, whole=True),
    "on_invalid": one_of(*POLICIES),
    "bit_depth": number(8, 16, whole=True),
    "max_pixels": number(1, MAX_PIXELS * 16, whole=True),
}
