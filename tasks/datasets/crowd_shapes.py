"""Vehicles and people seen from above, drawn as small sprites.

A figure faces right in its own frame, ``length`` by ``width`` pixels. Sprites are drawn three times
too large, turned, and reduced, which smooths their edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

OVERSAMPLING = 3
Colour = tuple[int, int, int]
GLASS: Colour = (38, 48, 62)
TYRE: Colour = (28, 28, 30)
SKIN: Colour = (196, 152, 120)

_PAINT: dict[str, tuple[Colour, ...]] = {
    "car": (
        *((232, 232, 230), (205, 207, 210), (40, 42, 46), (120, 124, 130), (158, 30, 34)),
        *((36, 62, 122), (245, 245, 240), (70, 76, 84), (176, 160, 132), (24, 84, 70)),
    ),
    "van": ((240, 240, 238), (214, 216, 220), (250, 248, 240), (52, 72, 118), (224, 196, 60)),
    "truck": ((236, 236, 232), (62, 96, 150), (150, 52, 40), (88, 112, 80), (206, 140, 50)),
    "bus": ((222, 176, 40), (186, 44, 40), (56, 120, 176), (226, 228, 230), (60, 140, 90)),
    "cloth": (
        *((200, 40, 48), (40, 80, 170), (236, 236, 232), (34, 34, 40), (230, 190, 60)),
        *((70, 140, 80), (150, 90, 160), (120, 130, 140), (236, 130, 50), (110, 180, 210)),
    ),
    "cargo": ((140, 104, 66), (96, 120, 90), (120, 126, 134), (166, 132, 84)),
    "awning": ((196, 36, 40), (36, 92, 168), (40, 132, 84), (230, 150, 40)),
    "hair": ((36, 28, 24), (70, 48, 32), (20, 20, 22), (150, 140, 130)),
}


@dataclass(frozen=True)
class Kind:
    """Size and outline of a class.

    Parameters
    ----------
    length, width : float, pixels at scale 1
    corner : float, in [0, 1]
        Corner radius of the outline, as a share of half the shorter side; 1 is a capsule.
    height : float, pixels at scale 1
        Height above ground, which throws the shadow.
    room : {"lane", "edge", "walk"}
        Where it moves: in a lane, along the kerb, or on foot.
    """

    length: float
    width: float
    corner: float
    height: float
    room: str


KINDS: dict[str, Kind] = {
    "awning-tricycle": Kind(31, 17, 0.25, 9, "edge"),
    "bicycle": Kind(21, 8, 1.0, 7, "edge"),
    "bus": Kind(92, 25, 0.25, 14, "lane"),
    "car": Kind(38, 18, 0.6, 6, "lane"),
    "motor": Kind(22, 11, 1.0, 6, "edge"),
    "pedestrian": Kind(8, 13, 1.0, 13, "walk"),
    "people": Kind(18, 14, 0.8, 4, "walk"),
    "tricycle": Kind(28, 15, 0.3, 6, "edge"),
    "truck": Kind(64, 23, 0.2, 13, "lane"),
    "van": Kind(45, 20, 0.3, 9, "lane"),
}
CLASSES = tuple(KINDS)
Part = tuple[float, float, float, float]
_PARTS: dict[str, tuple[Part, ...]] = {
    "awning-tricycle": ((0.0, 0.86, 1.0, 0.25), (0.7, 1.0, 0.16, 0.8)),
    "bicycle": ((0.0, 1.0, 0.16, 1.0), (0.3, 0.58, 0.92, 1.0), (0.72, 0.77, 0.84, 0.0)),
    "motor": ((0.0, 1.0, 0.32, 1.0), (0.26, 0.54, 0.92, 1.0), (0.72, 0.78, 0.88, 0.0)),
    "tricycle": ((0.0, 0.6, 1.0, 0.1), (0.55, 1.0, 0.16, 0.8), (0.86, 0.9, 0.64, 0.0)),
}
"""Outlines of more than one rectangle: rear, front, share of the width, corner."""


class _Pen:
    """Draw in shares of length (0 rear to 1 front) and width (0 to 1)."""

    def __init__(self, length: float, width: float) -> None:
        self.size = round(length * OVERSAMPLING), round(width * OVERSAMPLING)
        self.sprite = Image.new("RGBA", self.size, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.sprite)

    def _scaled(self, box: tuple[float, float, float, float]) -> list[float]:
        width, height = self.size[0] - 1, self.size[1] - 1
        return [box[0] * width, box[1] * height, box[2] * width, box[3] * height]

    def block(
        self, box: tuple[float, float, float, float], fill: Colour, corner: float = 0.0
    ) -> None:
        corners = self._scaled(box)
        radius = corner * min(corners[2] - corners[0], corners[3] - corners[1]) / 2
        self._draw.rounded_rectangle(corners, radius, fill)

    def oval(self, box: tuple[float, float, float, float], fill: Colour) -> None:
        self._draw.ellipse(self._scaled(box), fill)

    def pane(self, x1: float, x2: float, slant: float, fill: Colour = GLASS) -> None:
        """Draw a window across the body, narrower at x1."""
        inset = 0.12 + slant
        points = [(x1, inset), (x2, 0.12), (x2, 0.88), (x1, 1 - inset)]
        width, height = self.size
        self._draw.polygon([(x * width, y * height) for x, y in points], fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """Draw a circle; the radius is a share of the width."""
        cx, cy, r = x * self.size[0], y * self.size[1], radius * self.size[1]
        self._draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, round(channel * factor))) for channel in colour)
    return red, green, blue


class _Wheel:
    """Pick colours."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __getitem__(self, name: str) -> Colour:
        colours = _PAINT[name]
        return _shade(colours[int(self.rng.integers(len(colours)))], self.rng.uniform(0.88, 1.06))


def _car(pen: _Pen, pick: _Wheel) -> None:
    paint = pick["car"]
    pen.block((0, 0, 1, 1), _shade(paint, 0.78), 0.6)
    pen.block((0.02, 0.06, 0.98, 0.94), paint, 0.6)
    pen.block((0.2, 0.1, 0.72, 0.9), GLASS, 0.5)
    pen.block((0.28, 0.15, 0.58, 0.85), _shade(paint, 1.1), 0.4)
    pen.pane(0.6, 0.73, 0.06)
    for y in (0.14, 0.76):
        pen.block((0.93, y, 0.985, y + 0.12), (250, 246, 214))
        pen.block((0.01, y, 0.04, y + 0.12), (170, 24, 24))


def _van(pen: _Pen, pick: _Wheel) -> None:
    paint = pick["van"]
    pen.block((0, 0, 1, 1), _shade(paint, 0.74), 0.3)
    pen.block((0.01, 0.07, 0.97, 0.93), paint, 0.3)
    pen.pane(0.76, 0.87, 0.05)
    for x in (0.14, 0.3, 0.46, 0.62):
        pen.block((x, 0.12, x + 0.025, 0.88), _shade(paint, 0.82))


def _truck(pen: _Pen, pick: _Wheel) -> None:
    cab, load = pick["truck"], pick["truck"]
    pen.block((0.5, 0.2, 0.9, 0.8), TYRE)
    pen.block((0.76, 0.04, 1, 0.96), _shade(cab, 0.8), 0.3)
    pen.block((0.78, 0.1, 0.97, 0.9), cab, 0.3)
    pen.pane(0.88, 0.95, 0.02)
    pen.block((0, 0, 0.72, 1), _shade(load, 0.7))
    if pick.rng.random() < 0.6:
        pen.block((0.01, 0.05, 0.71, 0.95), load)
        for x in np.linspace(0.08, 0.64, 6).tolist():
            pen.block((x, 0.05, x + 0.015, 0.95), _shade(load, 0.84))
        return
    pen.block((0.02, 0.1, 0.7, 0.9), (96, 84, 70))
    for _ in range(14):
        x, y = pick.rng.uniform(0.06, 0.64), pick.rng.uniform(0.2, 0.8)
        pen.disc(x, y, 0.11, _shade((150, 128, 98), pick.rng.uniform(0.6, 1.2)))


def _bus(pen: _Pen, pick: _Wheel) -> None:
    paint = pick["bus"]
    pen.block((0, 0, 1, 1), GLASS, 0.25)
    pen.block((0.01, 0.09, 0.97, 0.91), paint, 0.2)
    pen.block((0.03, 0.44, 0.95, 0.56), _shade(paint, 1.14))
    pen.pane(0.955, 0.985, 0.0)
    for x in (0.14, 0.42, 0.72):
        pen.block((x, 0.3, x + 0.09, 0.7), (214, 216, 216))
        pen.block((x + 0.015, 0.38, x + 0.075, 0.62), (150, 154, 158))


def _rider(pen: _Pen, pick: _Wheel, x: float, head: Colour) -> None:
    pen.oval((x - 0.16, 0.04, x + 0.12, 0.96), pick["cloth"])
    pen.disc(x + 0.04, 0.5, 0.26, head)


def _motor(pen: _Pen, pick: _Wheel) -> None:
    pen.block((0, 0.34, 1, 0.66), TYRE, 1.0)
    pen.block((0.2, 0.28, 0.8, 0.72), pick["car"], 0.8)
    pen.block((0.72, 0.06, 0.78, 0.94), (90, 92, 96))
    _rider(pen, pick, 0.42, pick["cloth"])


def _bicycle(pen: _Pen, pick: _Wheel) -> None:
    pen.block((0, 0.42, 0.36, 0.58), TYRE, 1.0)
    pen.block((0.62, 0.42, 1, 0.58), TYRE, 1.0)
    pen.block((0.3, 0.44, 0.7, 0.56), pick["cloth"])
    pen.block((0.72, 0.08, 0.77, 0.92), (60, 62, 66))
    _rider(pen, pick, 0.46, pick["hair"])


def _tricycle(pen: _Pen, pick: _Wheel) -> None:
    wood = pick["cargo"]
    pen.block((0.55, 0.42, 1, 0.58), TYRE, 0.8)
    pen.block((0.86, 0.18, 0.9, 0.82), (70, 72, 76))
    pen.block((0, 0, 0.6, 1), _shade(wood, 0.6), 0.1)
    pen.block((0.03, 0.08, 0.57, 0.92), wood)
    for y in (0.24, 0.4, 0.56, 0.72):
        pen.block((0.03, y, 0.57, y + 0.04), _shade(wood, 0.72))
    pen.oval((0.6, 0.16, 0.8, 0.84), pick["cloth"])
    pen.disc(0.71, 0.5, 0.18, pick["hair"])


def _awning(pen: _Pen, pick: _Wheel) -> None:
    cloth = pick["awning"]
    pen.block((0.7, 0.42, 1, 0.58), TYRE, 0.8)
    pen.block((0.88, 0.2, 0.92, 0.8), (70, 72, 76))
    pen.block((0, 0, 0.86, 1), _shade(cloth, 0.7), 0.25)
    pen.block((0.02, 0.05, 0.84, 0.95), cloth, 0.25)
    for x in (0.1, 0.28, 0.46, 0.64):
        pen.block((x, 0.05, x + 0.09, 0.95), (240, 236, 226))


def _pedestrian(pen: _Pen, pick: _Wheel) -> None:
    shoes = (50, 46, 44)
    pen.oval((0.5, 0.26, 1, 0.44), shoes)
    pen.oval((0, 0.56, 0.5, 0.74), shoes)
    pen.oval((0.12, 0, 0.88, 1), pick["cloth"])
    pen.disc(0.54, 0.5, 0.22, pick["hair"])


def _people(pen: _Pen, pick: _Wheel) -> None:
    trousers = _shade(pick["cloth"], 0.7)
    for y in (0.2, 0.56):
        pen.block((0.3, y, 0.94, y + 0.24), trousers, 0.8)
        pen.oval((0.86, y + 0.02, 1, y + 0.22), (50, 46, 44))
    pen.oval((0, 0, 0.52, 1), pick["cloth"])
    pen.oval((0.3, 0.04, 0.62, 0.2), SKIN)
    pen.oval((0.3, 0.8, 0.62, 0.96), SKIN)
    pen.disc(0.3, 0.5, 0.21, pick["hair"])


_DRAWERS: dict[str, Callable[[_Pen, _Wheel], None]] = {
    "awning-tricycle": _awning,
    "bicycle": _bicycle,
    "bus": _bus,
    "car": _car,
    "motor": _motor,
    "pedestrian": _pedestrian,
    "people": _people,
    "tricycle": _tricycle,
    "truck": _truck,
    "van": _van,
}


def outline_box(
    name: str, length: float, width: float, angle: float
) -> tuple[float, float, float, float]:
    """Return the corners of a turned figure's box, in pixels from its middle.

    The outline is one or a few rectangles with round corners, whose extent is known in closed
    form.
    """
    cosine, sine = math.cos(angle), math.sin(angle)
    boxes = []
    for rear, front, share, corner in _PARTS.get(name, ((0.0, 1.0, 1.0, KINDS[name].corner),)):
        long, wide = (front - rear) * length, share * width
        radius = corner * min(long, wide) / 2
        along, across = long / 2 - radius, wide / 2 - radius
        dx = along * abs(cosine) + across * abs(sine) + radius
        dy = along * abs(sine) + across * abs(cosine) + radius
        offset = ((rear + front) / 2 - 0.5) * length
        x, y = offset * cosine, -offset * sine
        boxes.append((x - dx, y - dy, x + dx, y + dy))
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def sprite(
    name: str, length: float, width: float, angle: float, rng: np.random.Generator
) -> Image.Image:
    """Draw a figure turned by ``angle`` (radians, anticlockwise on the page), mode RGBA."""
    pen = _Pen(length, width)
    _DRAWERS[name](pen, _Wheel(rng))
    turned = pen.sprite.rotate(math.degrees(angle), Image.Resampling.BILINEAR, expand=True)
    return turned.reduce(OVERSAMPLING)
