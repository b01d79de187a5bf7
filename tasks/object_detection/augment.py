"""Random changes to training pictures, drawn from a generator of their own.

They are part of the model's parameters (``model.params.augment``), the same at every site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fl_common.errors import ConfigError
from fl_common.words import suggest
from tasks.object_detection.annotations import DetectionItem
from tasks.object_detection.pixels import Frame, Target, blank, letterbox, paste

MIN_SIDE = 2.0
"""Pixels of the square below which a cut box is dropped."""
MIN_VISIBLE = 0.2
"""Share of a box's area that must remain in view."""
_LIMITS = {"flip": 1.0, "flip_vertical": 1.0, "scale": 0.9, "translate": 0.9, "colour": 0.9}

Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class Augment:
    """How strongly training pictures are changed; zero switches a change off.

    Parameters
    ----------
    flip, flip_vertical : float, probability
        Mirror left and right; top and bottom (aerial views, microscopy).
    scale : float, in [0, 0.9]
        Zoom by a factor within 1 - scale and 1 + scale.
    translate : float, share of the square
        Shift by up to this, either way.
    colour : float, in [0, 0.9]
        Change brightness and saturation by a factor within 1 - colour and 1 + colour.
    mosaic : float, probability
        Show four pictures in one.
    """

    flip: float = 0.5
    flip_vertical: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    colour: float = 0.0
    mosaic: float = 0.0

    @classmethod
    def from_mapping(cls, values: Any) -> Augment:
        """Check plain values; ``None`` switches everything off.

        Raises
        ------
        ConfigError
            If a key does not exist or a value is out of range.
        """
        if values is None:
            return cls(flip=0.0)
        if not isinstance(values, Mapping):
            raise ConfigError(f"model.params.augment is {values!r}; expected {{flip: 0.5, ...}}")
        known = [field.name for field in fields(cls)]
        for key, value in values.items():
            if key not in known:
                raise ConfigError(
                    f"model.params.augment has no key '{key}'{suggest(str(key), known)}"
                )
            limit = _LIMITS.get(key, 1.0)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value <= limit:
                raise ConfigError(
                    f"model.params.augment.{key} is {value!r}; expected 0 to {limit:g}"
                )
        return cls(**values)


class Loader:
    """Makes training batches: decodes, augments and letterboxes pictures as they are asked for."""

    def __init__(
        self,
        items: Sequence[DetectionItem],
        size: int,
        augment: Augment,
        rng: np.random.Generator,
        *,
        keep_ratio: bool = True,
    ) -> None:
        self._items = items
        self._size = size
        self._augment = augment
        self._rng = rng
        self._keep_ratio = keep_ratio

    def batch(self, rows: Sequence[int]) -> tuple[torch.Tensor, list[Target]]:
        """Return pictures (b, 3, s, s) and their boxes."""
        parts = [self._one(row) for row in rows]
        return torch.stack([square for square, _ in parts]), [target for _, target in parts]

    def _one(self, row: int) -> tuple[torch.Tensor, Target]:
        size, augment, rng = self._size, self._augment, self._rng
        canvas = blank(size)
        if augment.mosaic and rng.random() < augment.mosaic:
            middle = rng.integers(size // 3, size - size // 3, 2).tolist()
            rows = [row, *rng.integers(len(self._items), size=3).tolist()]
            windows = _quarters(size, *middle)
            parts = [
                self._place(canvas, i, window, place)
                for i, (window, place) in zip(rows, windows, strict=True)
            ]
            boxes = np.concatenate([boxes for boxes, _ in parts])
            labels = np.concatenate([labels for _, labels in parts])
        else:
            boxes, labels = self._place(canvas, row, (0, 0, size, size), self._shifted)
        _recolour(canvas, augment.colour, rng)
        canvas, boxes = _flip(canvas, boxes, augment, rng)
        return canvas, Target(torch.from_numpy(boxes), torch.from_numpy(labels))

    def _place(
        self, canvas: torch.Tensor, row: int, window: Corners, place: Callable[[Frame], Frame]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Lay a picture on the canvas; return its boxes that remain in view."""
        item, scale = self._items[row], self._augment.scale
        frame = letterbox(item.width, item.height, self._size, keep_ratio=self._keep_ratio)
        if scale:
            frame = _zoomed(frame, float(self._rng.uniform(1 - scale, 1 + scale)), self._size)
        frame = place(frame)
        paste(canvas, item.image(), frame, window)
        return _in_view(frame.into(item.boxes), item.labels, window)

    def _shifted(self, frame: Frame) -> Frame:
        if not self._augment.translate:
            return frame
        reach = self._augment.translate * self._size
        left, top = self._rng.uniform(-reach, reach, 2).round().astype(int).tolist()
        offset = frame.offset[0] + left, frame.offset[1] + top
        return Frame(frame.width, frame.height, frame.ratio, offset)


def _zoomed(frame: Frame, factor: float, size: int) -> Frame:
    wide, high = max(round(frame.width * factor), 1), max(round(frame.height * factor), 1)
    ratio = frame.ratio[0] * wide / frame.width, frame.ratio[1] * high / frame.height
    return Frame(wide, high, ratio, ((size - wide) // 2, (size - high) // 2))


def _quarters(size: int, x: int, y: int) -> list[tuple[Corners, Callable[[Frame], Frame]]]:
    """Return the windows round a middle, and how to lay a picture's corner against it."""

    def at(left: bool, top: bool) -> Callable[[Frame], Frame]:
        def move(frame: Frame) -> Frame:
            corner = (x - frame.width if left else x), (y - frame.height if top else y)
            return Frame(frame.width, frame.height, frame.ratio, corner)

        return move

    return [
        ((0, 0, x, y), at(True, True)),
        ((x, 0, size, y), at(False, True)),
        ((0, y, x, size), at(True, False)),
        ((x, y, size, size), at(False, False)),
    ]


def _in_view(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], window: Corners
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x1, y1, x2, y2 = window
    inside = np.stack(
        [boxes[:, i].clip(*((x1, x2) if i % 2 == 0 else (y1, y2))) for i in range(4)], axis=1
    )
    before, after = boxes[:, 2:] - boxes[:, :2], inside[:, 2:] - inside[:, :2]
    share = after.prod(axis=1) / np.maximum(before.prod(axis=1), 1e-9)
    whole = share > 1 - 1e-4  # a small box that nothing has cut is kept
    kept = whole | ((after >= MIN_SIDE).all(axis=1) & (share >= MIN_VISIBLE))
    kept &= (after > 0).all(axis=1)
    return inside[kept].astype(np.float32), labels[kept]


def _recolour(canvas: torch.Tensor, strength: float, rng: np.random.Generator) -> None:
    if not strength:
        return
    brightness, saturation = rng.uniform(1 - strength, 1 + strength, 2).tolist()
    grey = canvas.mean(dim=0, keepdim=True)
    canvas.sub_(grey).mul_(saturation).add_(grey).mul_(brightness).clamp_(0, 1)


def _flip(
    canvas: torch.Tensor, boxes: NDArray[np.float32], augment: Augment, rng: np.random.Generator
) -> tuple[torch.Tensor, NDArray[np.float32]]:
    for axis, chance in enumerate((augment.flip, augment.flip_vertical)):
        if chance and rng.random() < chance:
            canvas = canvas.flip(2 - axis)
            near, far = axis, axis + 2
            boxes = boxes.copy()
            side = canvas.shape[2]
            boxes[:, near], boxes[:, far] = side - boxes[:, far], side - boxes[:, near].copy()
    return canvas, boxes
