"""``crowd_detection``: generated aerial scenes of traffic and people, ten unbalanced classes.

A scene is drawn from its number alone, the same on every machine; nobody is in the picture. Figures
are of several sizes, stand clear of each other and may be hidden in part by the crown of a tree;
stones are no class, and some scenes hold no figure at all. Boxes are of whole figures.

The ten classes and their imbalance follow VisDrone's: cars and pedestrians are common, awning
tricycles and buses rare.

References
----------
Zhu et al., "Detection and Tracking Meet Drones Challenge", TPAMI 2021, arXiv:2001.06303 (classes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.images.datasets import ImageDataset
from tasks.images.image_refs import GeneratedImage
from tasks.images.issues import ImageIssues
from tasks.object_detection.annotations import RawImage

Points = NDArray[np.float64]
Part = tuple[float, float, float, int]

NAME = "crowd_detection"
NUM_SCENES = 800
SIDE = 320
"""Width and height of a scene, pixels."""
SEED = 20260401
EMPTY_SHARE = 0.04
ATTEMPTS = 12
VISIBLE_SHARE = 0.6
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Kind:
    """How a class looks from above, heading right.

    Parameters
    ----------
    length, width : float, pixels at scale 1
    corner : float
        Exponent of the outline: 2 is an oval, 8 nearly a rectangle.
    room : {"road", "walk"}
        Where it moves.
    parts : tuple of (from, to, share of the width, brightness)
        What is on top, along the length from rear 0 to front 1.
    """

    length: float
    width: float
    corner: float
    room: str
    parts: tuple[Part, ...]


KINDS: dict[str, Kind] = {
    "awning-tricycle": Kind(31, 17, 8, "road", ((0, 0.2, 1, 240), (0.4, 0.6, 1, 240))),
    "bicycle": Kind(21, 8, 2, "road", ((0.3, 0.6, 0.9, 210),)),
    "bus": Kind(92, 25, 8, "road", ((0.2, 0.3, 0.4, 90), (0.6, 0.7, 0.4, 90), (0.94, 1, 0.9, 40))),
    "car": Kind(38, 18, 5, "road", ((0.15, 0.25, 0.8, 40), (0.6, 0.74, 0.8, 40))),
    "motor": Kind(22, 11, 2, "road", ((0.25, 0.7, 0.8, 50), (0.6, 0.75, 0.5, 210))),
    "pedestrian": Kind(9, 13, 2, "walk", ((0.25, 0.75, 0.45, 40),)),
    "people": Kind(18, 14, 3, "walk", ((0.1, 0.4, 0.4, 40), (0.6, 0.9, 0.4, 210))),
    "tricycle": Kind(28, 15, 8, "road", ((0, 0.55, 0.8, 60), (0.7, 0.85, 0.4, 210))),
    "truck": Kind(64, 23, 8, "road", ((0.02, 0.68, 0.9, 225), (0.7, 0.74, 1, 30))),
    "van": Kind(45, 20, 6, "road", ((0.78, 0.9, 0.85, 40),)),
}
CLASSES = tuple(KINDS)
# place: share of scenes, half of the road in pixels, mean number of figures, weights of CLASSES
PLACES: dict[str, tuple[float, int, int, tuple[float, ...]]] = {
    "street": (0.32, 56, 27, (1.5, 3, 4, 46, 10, 20, 3, 2, 5, 8)),
    "junction": (0.22, 48, 27, (1.5, 4, 3, 42, 13, 24, 3, 2, 4, 7)),
    "market": (0.16, 20, 33, (3, 6, 0, 8, 14, 40, 22, 5, 0, 2)),
    "parking": (0.16, 110, 27, (0.5, 1, 1.5, 70, 2, 9, 2, 0.5, 4, 10)),
    "park": (0.14, 14, 25, (0.3, 8, 0, 5, 3, 52, 32, 1, 0, 1)),
}


@cache
def _outline(corner: float) -> Points:
    """Return 32 points of the curve |2x|^corner + |2y|^corner = 1."""
    angle = np.linspace(0, 2 * math.pi, 32, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.asarray(np.sign(circle) * np.abs(circle) ** (2 / corner) / 2)


@dataclass(frozen=True)
class Figure:
    """One vehicle or person: class, centre in pixels, heading in radians, size as a factor."""

    name: str
    x: float
    y: float
    angle: float
    scale: float

    def points(self, outline: Points) -> Points:
        """Return pixels of points in shares of length and width, shape (n, 2), from the centre."""
        kind = KINDS[self.name]
        along, across = (outline * (kind.length, kind.width) * self.scale).T
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        turned = (along * cosine + across * sine, across * cosine - along * sine)
        return np.asarray(np.stack(turned, axis=1) + np.array([self.x, self.y]))

    @property
    def outline(self) -> Points:
        """Corners of the figure's outline, shape (32, 2), pixels."""
        return self.points(_outline(KINDS[self.name].corner))

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Corners round the outline, before they are cut at the picture's edge."""
        (x1, y1), (x2, y2) = self.outline.min(axis=0).tolist(), self.outline.max(axis=0).tolist()
        return x1, y1, x2, y2


@dataclass(frozen=True)
class Scene:
    """A road at an angle through the middle, trees as (x, y, radius), and figures."""

    place: str
    angle: float
    trees: tuple[tuple[float, float, float], ...]
    figures: tuple[Figure, ...]


def crowd_detection() -> ImageDataset:
    """Return 800 scenes of 320 x 320 pixels with the column ``place``."""

    def records(issues: ImageIssues) -> Iterator[RawImage]:
        return (scene_record(index) for index in range(NUM_SCENES))

    return ImageDataset(NAME, "object_detection", CLASSES, records)


def scene_record(index: int) -> RawImage:
    """Return the boxes of a scene, and a reference that draws it when asked."""
    scene = layout(index)
    boxes = np.array([figure.box for figure in scene.figures], dtype=np.float64).reshape(-1, 4)
    image = GeneratedImage(NAME, index, SIDE, SIDE, draw_scene)
    return RawImage(
        image,
        np.clip(boxes, 0.0, SIDE),
        tuple(figure.name for figure in scene.figures),
        tuple(f"figure {number}" for number in range(len(boxes))),
        image.name,
        groups={"place": scene.place},
    )


@lru_cache(maxsize=64)
def layout(index: int) -> Scene:
    """Decide who stands where; this alone gives the boxes."""
    rng = np.random.default_rng([SEED, index])
    place = str(rng.choice(list(PLACES), p=[row[0] for row in PLACES.values()]))
    _, _, mean, weights = PLACES[place]
    angle, scale = float(rng.uniform(0, math.pi)), float(rng.uniform(0.9, 1.3))
    trees = tuple(rng.uniform((0, 0, 12), (SIDE, SIDE, 26), (rng.poisson(5), 3)).tolist())
    count = 0 if rng.random() < EMPTY_SHARE else 6 + int(rng.poisson(mean - 6))
    wanted = rng.choice(len(CLASSES), size=count, p=np.array(weights) / sum(weights)).tolist()
    placed: list[Figure] = []
    # the largest first, while there is room for them
    for code in sorted(wanted, key=lambda code: -KINDS[CLASSES[code]].length):
        for _ in range(ATTEMPTS):
            figure = _proposal(CLASSES[code], place, angle, scale, rng)
            if _fits(figure, placed, trees):
                placed.append(figure)
                break
    return Scene(place, angle, trees, tuple(placed))


def _proposal(
    name: str, place: str, angle: float, scale: float, rng: np.random.Generator
) -> Figure:
    """Put a vehicle on the road, along it or on its crossing, and a person anywhere."""
    along, across = (rng.uniform(-0.6, 0.6, 2) * SIDE).tolist()
    turn = float(rng.uniform(0, 2 * math.pi))
    if KINDS[name].room == "road":
        across = float(rng.uniform(-1, 1)) * PLACES[place][1]
        turn = float(angle + rng.normal(0, 0.08)) + (math.pi if across < 0 else 0.0)
        if place == "junction" and rng.random() < 0.45:
            along, across, turn = across, along, turn + math.pi / 2
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = SIDE / 2 + along * cosine + across * sine, SIDE / 2 - along * sine + across * cosine
    return Figure(name, x, y, turn, scale * float(rng.uniform(0.85, 1.15)))


def _fits(
    figure: Figure, placed: list[Figure], trees: tuple[tuple[float, float, float], ...]
) -> bool:
    """Say whether most of a figure is in the picture, its middle in sight, and others are clear."""
    x1, y1, x2, y2 = figure.box
    shown = max(0.0, min(x2, SIDE) - max(x1, 0)) * max(0.0, min(y2, SIDE) - max(y1, 0))
    if shown < VISIBLE_SHARE * (x2 - x1) * (y2 - y1):
        return False
    if any(math.hypot(figure.x - x, figure.y - y) < radius for x, y, radius in trees):
        return False
    return not any(collide(figure, other) for other in placed)


def collide(one: Figure, two: Figure) -> bool:
    """Say whether the boxes of two figures overlap."""
    a, b = one.box, two.box
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def draw_scene(index: int) -> Image.Image:
    """Draw a scene: 320 x 320 pixels, mode RGB."""
    scene, rng = layout(index), np.random.default_rng([SEED, index, 1])
    picture = Image.new("RGB", (SIDE * _OVERSAMPLING,) * 2, _near((96, 112, 72), 14, rng))
    draw = ImageDraw.Draw(picture)
    road = _near((104, 104, 106), 12, rng)
    for turn in (0.0, math.pi / 2)[: 2 if scene.place == "junction" else 1]:
        _strip(draw, scene, turn, (0.0, 1.0), road)
        _strip(draw, scene, turn, (0.48, 0.52), (200, 200, 196))
    for x, y, size in rng.uniform((0, 0, 2), (SIDE, SIDE, 6), (30, 3)):
        _disc(draw, x, y, size, _near((128, 122, 112), 25, rng))  # stones are no class
    for figure in scene.figures:
        draw_figure(draw, figure, rng)
    for x, y, size in scene.trees:
        for dx, dy in rng.normal(0, 0.3 * size, (6, 2)):
            _disc(draw, x + dx, y + dy, 0.6 * size, _near((44, 76, 38), 12, rng))
    values = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    values = values * rng.uniform(0.8, 1.2) + rng.normal(0, 6, values.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def draw_figure(draw: ImageDraw.ImageDraw, figure: Figure, rng: np.random.Generator) -> None:
    """Draw a figure's outline in a colour of its own and what is on top of it."""
    paint = tuple(rng.integers(60, 256, 3).tolist())
    draw.polygon(_pixels(figure.outline), fill=paint, outline=(24, 24, 28))
    for start, end, share, tone in KINDS[figure.name].parts:
        corners = [(start, -share), (end, -share), (end, share), (start, share)]
        shares = np.array([(x - 0.5, y / 2) for x, y in corners]) * 0.92
        draw.polygon(_pixels(figure.points(shares)), fill=(tone, tone, tone))


def _strip(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    turn: float,
    span: tuple[float, float],
    fill: tuple[int, ...],
) -> None:
    """Draw part of a road's width, from 0 to 1, from edge to edge."""
    half, angle = PLACES[scene.place][1], scene.angle + turn
    along = np.array([math.cos(angle), -math.sin(angle)]) * SIDE
    across = np.array([math.sin(angle), math.cos(angle)]) * half
    low, high = (across * (2 * share - 1) for share in span)
    corners = np.array([low - along, low + along, high + along, high - along])
    draw.polygon(_pixels(corners + SIDE / 2), fill=fill)


def _disc(
    draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, ...]
) -> None:
    corners = np.array([(x - radius, y - radius), (x + radius, y + radius)])
    draw.ellipse(_pixels(corners), fill=fill)


def _pixels(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points * _OVERSAMPLING]


def _near(colour: tuple[int, ...], spread: float, rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(np.clip(np.array(colour) + rng.normal(0, spread), 0, 255).astype(int).tolist())
