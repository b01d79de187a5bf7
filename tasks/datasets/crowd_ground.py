"""Draw a crowd scene: ground, road, houses, trees, shadows, figures, light."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from tasks.datasets.crowd_shapes import KINDS, Colour, sprite

if TYPE_CHECKING:
    from tasks.datasets.crowd import Scene

Floats = NDArray[np.float32]
Points = list[tuple[float, float]]

GRASS: Colour = (104, 122, 74)
PAVING: Colour = (168, 160, 148)
CONCRETE: Colour = (150, 148, 142)
ASPHALT: Colour = (92, 93, 96)
KERB: Colour = (182, 178, 170)
PAINT: Colour = (222, 222, 214)
GROUNDS = {
    "street": GRASS,
    "junction": CONCRETE,
    "market": PAVING,
    "parking": ASPHALT,
    "park": GRASS,
}
ROOFS: tuple[Colour, ...] = ((150, 92, 74), (120, 116, 112), (170, 164, 154), (104, 84, 76))
OVERSAMPLING = 2
SHADOW = 0.52
"""Brightness of what lies in the shade."""
REACH = 2.0
"""How far along and across the road reaches, in sides of the picture."""


def paint(scene: Scene) -> Image.Image:
    """Return the picture of a scene, mode RGB; the same for the same scene."""
    from tasks.datasets.crowd import SEED, SIDE

    rng = np.random.default_rng([SEED, scene.index, 1])
    direction, length = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.5, 1.1))
    sun = length * math.cos(direction), length * math.sin(direction)
    ground = _Ground(scene, rng, SIDE, sun)
    ground.roads()
    ground.furniture()
    picture = ground.finished()
    drawn = [sprite(f.name, f.length, f.width, f.angle, rng) for f in scene.figures]
    shade = Image.new("L", picture.size, 0)
    for figure, image in zip(scene.figures, drawn, strict=True):
        height = KINDS[figure.name].height * scene.scale
        for step in np.linspace(0, height, max(2, math.ceil(height * length / 3))):
            x, y = figure.x + sun[0] * step, figure.y + sun[1] * step
            x, y = x - image.width / 2, y - image.height / 2
            shade.paste(255, (round(x), round(y)), image.getchannel("A"))
    picture = _shaded(picture, shade.filter(ImageFilter.GaussianBlur(0.8)))
    for figure, image in zip(scene.figures, drawn, strict=True):
        corner = round(figure.x - image.width / 2), round(figure.y - image.height / 2)
        picture.paste(image, corner, image)
    return _lit(picture, rng)


class _Ground:
    """Everything that does not move, drawn twice too large."""

    def __init__(
        self, scene: Scene, rng: np.random.Generator, side: int, sun: tuple[float, float]
    ) -> None:
        self._scene = scene
        self._rng = rng
        self._side = side
        self._sun = sun
        self._picture = Image.new(
            "RGB", (side * OVERSAMPLING,) * 2, self._tinted(GROUNDS[scene.place])
        )
        self._draw = ImageDraw.Draw(self._picture)

    def _tinted(self, colour: Colour) -> Colour:
        factor = self._rng.uniform(0.88, 1.1, 3) * 0.3 + self._rng.uniform(0.88, 1.1) * 0.7
        return _colour(np.array(colour) * factor)

    def _quad(
        self, along: tuple[float, float], across: tuple[float, float], turned: bool
    ) -> Points:
        corners = [(along[i], across[j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        if turned:
            corners = [(-v, u) for u, v in corners]
        pixels = [self._scene.point(u, v) for u, v in corners]
        return [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in pixels]

    def _strip(
        self,
        along: tuple[float, float],
        across: tuple[float, float],
        fill: Colour,
        *,
        turned: bool = False,
    ) -> None:
        self._draw.polygon(self._quad(along, across, turned), fill)

    def roads(self) -> None:
        """Draw pavements, roadways, lane marks, zebra crossings and parking bays."""
        from tasks.datasets.crowd import WALK

        scene = self._scene
        reach = (-REACH * self._side, REACH * self._side)
        ways = (False, True) if scene.crossing else (False,)
        half, walk = scene.half_road, scene.half_road + WALK * scene.scale
        paving, asphalt = self._tinted(PAVING), self._tinted(ASPHALT)
        if scene.parking:
            self._bays()
        if scene.place == "market":
            self._slabs()
        for turned in ways:
            if not scene.parking:
                self._strip(reach, (-walk, walk), paving, turned=turned)
            self._strip(reach, (-half - 2, half + 2), KERB, turned=turned)
        for turned in ways:
            colour = asphalt if scene.place != "park" else self._tinted((176, 158, 128))
            self._strip(reach, (-half, half), colour, turned=turned)
        if scene.place != "park":
            for turned in ways:
                self._marks(turned)

    def _marks(self, turned: bool) -> None:
        scene = self._scene
        dash = 13 * scene.scale
        width = 2 * scene.half_road / max(scene.lanes, 1)
        clear = scene.half_road + 20 * scene.scale if scene.crossing else 0.0
        for line in range(1, scene.lanes):
            across = line * width - scene.half_road
            middle = line * 2 == scene.lanes
            for start in np.arange(-self._side, self._side, dash * (1 if middle else 2)):
                if abs(start) < clear:
                    continue
                span = (float(start), float(start) + dash)
                self._strip(span, (across - 0.8, across + 0.8), PAINT, turned=turned)
        if scene.crossing or self._rng.random() < 0.35:
            where = scene.half_road + 4 * scene.scale if scene.crossing else 0.25 * self._side
            for sign in (1, -1) if scene.crossing else (1,):
                near, far = sorted((sign * where, sign * (where + 13 * scene.scale)))
                for across in np.arange(-scene.half_road + 3, scene.half_road - 3, 7):
                    bar = (float(across), float(across) + 3.5)
                    self._strip((near, far), bar, PAINT, turned=turned)

    def _slabs(self) -> None:
        reach, joint = (-REACH * self._side, REACH * self._side), self._tinted((146, 138, 126))
        for across in np.arange(-self._side, self._side, 16 * self._scene.scale).tolist():
            for turned in (False, True):
                self._strip(reach, (across, across + 0.9), joint, turned=turned)

    def _bays(self) -> None:
        from tasks.datasets.crowd import LANE

        scene = self._scene
        step, depth = LANE * scene.scale, 2.1 * LANE * scene.scale
        for side in (1, -1):
            for row in range(2):
                near = scene.half_road + row * depth + 3
                span = sorted((side * near, side * (near + depth - 6)))
                for number in range(-10, 11):
                    along = (number + 0.5) * step
                    self._strip((along - 0.7, along + 0.7), (span[0], span[1]), PAINT)

    def furniture(self) -> None:
        """Put houses and trees where no road is."""
        from tasks.datasets.crowd import LANE, WALK

        scene, rng = self._scene, self._rng
        free = scene.half_road + WALK * scene.scale + 8
        if scene.place in ("street", "junction"):
            self._houses([self._plot(free) for _ in range(int(rng.integers(2, 6)))])
        if scene.parking:
            free += 4.8 * LANE * scene.scale
        number = {"street": 10, "junction": 7, "market": 5, "parking": 4, "park": 14}[scene.place]
        for _ in range(int(rng.poisson(number))):
            self._tree(free)

    def _plot(self, free: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return where a house stands: along and across the road."""
        rng = self._rng
        depth, length = float(rng.uniform(50, 110)), float(rng.uniform(60, 150))
        along = float(rng.uniform(-0.6, 0.6)) * self._side
        if self._scene.crossing:
            along = math.copysign(max(abs(along), free + length / 2), along)
        near = free + float(rng.uniform(0, 30))
        across = (near, near + depth) if rng.random() < 0.5 else (-near - depth, -near)
        return (along - length / 2, along + length / 2), across

    def _houses(self, plots: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
        for span, across in plots:
            quad = self._quad(span, across, False)
            for step in np.linspace(0, 14 * OVERSAMPLING, 8).tolist():
                moved = [(x + self._sun[0] * step, y + self._sun[1] * step) for x, y in quad]
                self._draw.polygon(moved, (58, 60, 58))
        for span, (low, high) in plots:
            roof = np.array(self._tinted(ROOFS[int(self._rng.integers(len(ROOFS)))]))
            self._strip(span, (low, high), _colour(roof))
            self._strip(span, ((low + high) / 2, high), _colour(roof * 0.84))
            for across in np.arange(low + 4, high, 6).tolist():
                self._strip(span, (across, across + 0.5), _colour(roof * 0.76))
            ridge = (low + high) / 2
            self._strip(span, (ridge - 0.8, ridge + 0.8), _colour(roof * 1.2))

    def _tree(self, free: float) -> None:
        rng = self._rng
        along = float(rng.uniform(-0.7, 0.7)) * self._side
        side = 1 if rng.random() < 0.5 else -1
        across = side * (free + float(rng.uniform(6, 120)))
        if self._scene.crossing and abs(along) < free + 14:
            along = math.copysign(free + 14, along)
        x, y = (value * OVERSAMPLING for value in self._scene.point(along, across))
        radius = float(rng.uniform(9, 19)) * OVERSAMPLING
        for step in (0.3, 0.5, 0.7):
            dx, dy = (radius * step * part for part in self._sun)
            self._disc(x + dx, y + dy, radius, (48, 54, 44))
        leaf = np.array([58, 88, 46]) * rng.uniform(0.8, 1.25)
        for _ in range(26):
            angle, distance = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.random()) * 0.72
            tone = _colour(leaf * rng.uniform(0.75, 1.3))
            cx, cy = x + distance * math.cos(angle), y + distance * math.sin(angle)
            self._disc(cx, cy, radius * rng.uniform(0.25, 0.42), tone)

    def _disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self._draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill)

    def finished(self) -> Image.Image:
        """Reduce to the final size and add texture."""
        flat = np.asarray(self._picture.reduce(OVERSAMPLING), dtype=np.float32)
        patches = (
            _noise(self._rng, self._side, 10) * 0.07 + _noise(self._rng, self._side, 40) * 0.05
        )
        grain = self._rng.standard_normal((self._side, self._side), np.float32) * 0.035
        return _image(flat * (1 + patches + grain)[..., None])


def _colour(values: NDArray[Any]) -> Colour:
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue


def _noise(rng: np.random.Generator, side: int, cells: int) -> Floats:
    """Return smooth noise of about unit spread, shape (side, side)."""
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


def _shaded(picture: Image.Image, shade: Image.Image) -> Image.Image:
    factor = shade.point(lambda value: round(255 - (1 - SHADOW) * value))
    return ImageChops.multiply(picture, Image.merge("RGB", [factor] * 3))


def _lit(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Apply daylight, lens softness and sensor noise."""
    soft = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.6))))
    values = np.asarray(soft, dtype=np.float32)
    light = (rng.uniform(0.78, 1.14) * rng.uniform(0.95, 1.05, 3)).astype(np.float32)
    return _image(values * light + rng.standard_normal(values.shape, np.float32) * 3)


def _image(values: Floats) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
