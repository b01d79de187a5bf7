"""``crowd_detection``: generated aerial scenes of traffic and people, ten unbalanced classes.

A scene is drawn from its number alone, the same on every machine; nobody is in the picture. Its
layout (place, road, who stands where) is cheap and gives the boxes; the picture is drawn only when
it is asked for (``tasks.datasets.crowd_ground``).

The ten classes and their imbalance follow VisDrone's: cars and pedestrians are common, awning
tricycles and buses rare.

References
----------
Zhu et al., "Detection and Tracking Meet Drones Challenge", TPAMI 2021, arXiv:2001.06303 (classes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.datasets.crowd_shapes import CLASSES, KINDS, outline_box
from tasks.images.datasets import ImageDataset
from tasks.images.image_refs import GeneratedImage
from tasks.images.issues import ImageIssues
from tasks.object_detection.annotations import RawImage

Floats = NDArray[np.float64]

NAME = "crowd_detection"
NUM_SCENES = 800
SIDE = 320
"""Width and height of a scene, pixels."""
SEED = 20260401
LANE = 25.0
WALK = 24.0
"""Widths of a lane and of a pavement at scale 1, pixels."""
ATTEMPTS = 12
VISIBLE_SHARE = 0.6
_MARGIN = 1.0

# place: share of scenes, lanes, mean number of figures, weights in the order of CLASSES
PLACES: dict[str, tuple[float, int, int, tuple[float, ...]]] = {
    "street": (0.32, 4, 26, (1.5, 3, 4, 46, 10, 20, 3, 2, 5, 8)),
    "junction": (0.22, 2, 26, (1.5, 4, 3, 42, 13, 24, 3, 2, 4, 7)),
    "market": (0.16, 1, 32, (3, 6, 0, 8, 14, 40, 22, 5, 0, 2)),
    "parking": (0.16, 2, 26, (0.5, 1, 1.5, 70, 2, 9, 2, 0.5, 4, 10)),
    "park": (0.14, 1, 24, (0.3, 8, 0, 5, 3, 52, 32, 1, 0, 1)),
}


@dataclass(frozen=True)
class Figure:
    """One vehicle or person: class, centre in pixels, heading in radians, size in pixels."""

    name: str
    x: float
    y: float
    angle: float
    length: float
    width: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Corners of the turned outline, before it is cut at the picture's edge."""
        box = outline_box(self.name, self.length, self.width, self.angle)
        return self.x + box[0], self.y + box[1], self.x + box[2], self.y + box[3]

    @property
    def reach(self) -> float:
        """Radius of the circle round the figure, with a margin."""
        return math.hypot(self.length, self.width) / 2 + _MARGIN


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    The road runs through the middle of the picture at ``angle``; "along" and "across" are measured
    from there, in pixels.

    Parameters
    ----------
    half_road : float
        Half the road's width.
    parking : bool
        Rows of marked bays on both sides.
    crossing : bool
        A second road, at a right angle.
    """

    index: int
    place: str
    angle: float
    scale: float
    half_road: float
    lanes: int
    crossing: bool
    parking: bool
    figures: tuple[Figure, ...]

    def point(self, along: float, across: float) -> tuple[float, float]:
        """Return the pixel of a place on the road."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        middle = SIDE / 2
        return middle + along * cosine + across * sine, middle - along * sine + across * cosine


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


def draw_scene(index: int) -> Image.Image:
    """Draw a scene: 320 x 320 pixels, mode RGB."""
    from tasks.datasets.crowd_ground import paint

    return paint(layout(index))


@lru_cache(maxsize=64)
def layout(index: int) -> Scene:
    """Decide everything about a scene but its texture."""
    rng = np.random.default_rng([SEED, index])
    shares = [row[0] for row in PLACES.values()]
    place = list(PLACES)[int(rng.choice(len(PLACES), p=shares))]
    _, lanes, mean, weights = PLACES[place]
    scale = float(rng.uniform(0.95, 1.3))
    scene = Scene(
        index,
        place,
        float(rng.uniform(0, 2 * math.pi)),
        scale,
        lanes * LANE * scale / 2 if lanes > 1 else 0.7 * LANE * scale,
        lanes,
        place == "junction",
        place == "parking",
        (),
    )
    return replace(scene, figures=_figures(scene, mean, weights, rng))


def _figures(
    scene: Scene, mean: int, weights: tuple[float, ...], rng: np.random.Generator
) -> tuple[Figure, ...]:
    chances = np.array(weights) / sum(weights)
    wanted = rng.choice(len(CLASSES), size=6 + rng.poisson(mean - 6), p=chances).tolist()
    placed: list[Figure] = []
    # the largest first, while there is room for them
    for code in sorted(wanted, key=lambda code: -KINDS[CLASSES[code]].length):
        for _ in range(ATTEMPTS):
            figure = _proposal(scene, CLASSES[code], rng)
            if _fits(figure, placed):
                placed.append(figure)
                break
    return tuple(placed)


def _proposal(scene: Scene, name: str, rng: np.random.Generator) -> Figure:
    """Put a figure somewhere that suits its class."""
    kind = KINDS[name]
    along = float(rng.uniform(-0.7, 0.7)) * SIDE
    turn = 0.0
    if kind.room == "lane" and scene.parking and name != "bus" and rng.random() < 0.8:
        along, across, turn = _bay(scene, rng)
    elif kind.room == "lane":
        lane = int(rng.integers(max(scene.lanes, 1)))
        across = (lane + 0.5) * 2 * scene.half_road / scene.lanes - scene.half_road
        turn = math.pi if across < 0 else 0.0
    elif kind.room == "edge":
        side = 1.0 if rng.random() < 0.5 else -1.0
        across = side * (scene.half_road + scene.scale * float(rng.uniform(-12, 5)))
        turn = 0.0 if side > 0 else math.pi
    elif scene.place in ("market", "park") or rng.random() < 0.25:
        across, turn = float(rng.uniform(-0.6, 0.6)) * SIDE, float(rng.uniform(0, 2 * math.pi))
    else:
        side = 1.0 if rng.random() < 0.5 else -1.0
        across = side * (scene.half_road + scene.scale * float(rng.uniform(5, WALK)))
        turn = float(rng.choice([0.0, math.pi])) + float(rng.normal(0, 0.4))
    if scene.crossing and rng.random() < 0.45:
        along, across, turn = -across, along, turn + math.pi / 2
    turn += float(rng.normal(0, 0.03 if kind.room == "lane" else 0.12))
    size = scene.scale * rng.normal(1, 0.06, 2).clip(0.85, 1.15)
    x, y = scene.point(along, across)
    length, width = (size * (kind.length, kind.width)).tolist()
    return Figure(name, x, y, (scene.angle + turn) % (2 * math.pi), length, width)


def _bay(scene: Scene, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a bay of a parking row: along, across, turn."""
    step, depth = LANE * scene.scale, 2.1 * LANE * scene.scale
    number = int(rng.integers(-9, 10))
    row = int(rng.integers(2))
    side = 1.0 if rng.random() < 0.5 else -1.0
    across = side * (scene.half_road + (row + 0.5) * depth)
    return number * step, across, float(rng.choice([math.pi / 2, -math.pi / 2]))


def _fits(figure: Figure, placed: list[Figure]) -> bool:
    """Say whether most of a figure is in the picture and it stands clear of the others."""
    x1, y1, x2, y2 = figure.box
    shown = max(0.0, min(x2, SIDE) - max(x1, 0)) * max(0.0, min(y2, SIDE) - max(y1, 0))
    if shown < VISIBLE_SHARE * (x2 - x1) * (y2 - y1):
        return False
    return not any(_collide(figure, other) for other in placed)


def _collide(one: Figure, two: Figure) -> bool:
    """Say whether two turned rectangles overlap (separating axes)."""
    if math.hypot(two.x - one.x, two.y - one.y) > one.reach + two.reach:
        return False
    offset = np.array([two.x - one.x, two.y - one.y])
    frames = [_frame(one), _frame(two)]
    for axes, _ in frames:
        for axis in axes:
            reach = sum(float(np.abs(other @ axis) @ half) for other, half in frames)
            if abs(float(offset @ axis)) > reach + _MARGIN:
                return False
    return True


def _frame(figure: Figure) -> tuple[Floats, Floats]:
    """Return unit axes (2, 2) and half sizes (2,) of a figure; y grows downwards."""
    cosine, sine = math.cos(figure.angle), math.sin(figure.angle)
    axes = np.array([[cosine, -sine], [sine, cosine]])
    return axes, np.array([figure.length / 2, figure.width / 2])
