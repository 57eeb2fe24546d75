"""Draws what ``examples/distil_tower.py`` trains on: training samples of the OpenMoji data sets, and basic shapes.

The samples are drawn in three styles. Most of their sprites are changed at random: colours, shading, outline,
proportions and sharpness. The style ``noto`` is never drawn here, so that it can tell what a tower makes of drawings
that it has not seen.
"""

import math
import random
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes
from adem_vl_hf.data.openmoji.drawing import CANVAS, COLOURS, canvas
from adem_vl_hf.data.openmoji.things import EVERY_THING

STYLES = ("openmoji", "twemoji", "fluent")  # the last style, noto, is for the test
OF_SHAPES, OF_NAMES = 0.15, 0.6  # the shares of images of basic shapes and of single things; the others show scenes
AS_IT_IS = 0.2  # the share of names and scenes whose sprites are not changed
SHAPES = ("circle", "square", "triangle", "rectangle", "star", "hexagon", "cross", "ring", "ellipse", "pentagon")
PAINTS = {
    "red": (220, 30, 30), "green": (30, 150, 50), "blue": (40, 60, 220), "orange": (250, 150, 20),
    "purple": (130, 40, 150), "black": (15, 15, 15), "yellow": (245, 225, 40), "pink": (250, 150, 190),
    "brown": (130, 80, 40), "grey": (128, 128, 128), "teal": (20, 150, 160), "white": (250, 250, 250),
}  # fmt: skip
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def hue_rotation(degrees: float) -> np.ndarray:
    """Make the matrix [3, 3] that turns RGB colours around the axis of the greys."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    one, root = (1 - cos) / 3, math.sqrt(1 / 3) * sin
    a, b, c = cos + one, one - root, one + root
    return np.array([[a, b, c], [c, a, b], [b, c, a]], np.float32)


def varied(sprite: np.ndarray, rng: random.Random) -> np.ndarray:
    """Change a sprite [h, w, 4] at random, as another artist might have drawn it."""
    side = len(sprite)
    colours, alpha = sprite[..., :3].astype(np.float32) / 255, sprite[..., 3]
    if rng.random() < 0.35:  # dark lines in another colour, so that nothing depends on black outlines
        dark = np.clip(1 - colours.max(-1, keepdims=True) / 0.25, 0, 1)
        colours = colours + dark * np.array([rng.random() * 0.7 for _ in range(3)], np.float32)
    saturation = 0.1 if rng.random() < 0.08 else rng.uniform(0.6, 1.4)
    mix = np.eye(3, dtype=np.float32) * saturation + (1 - saturation) * GREY
    colours = colours @ (hue_rotation(rng.gauss(0, 12)) @ mix).T
    colours = (colours - 0.5) * rng.uniform(0.75, 1.2) + 0.5 + rng.uniform(-0.12, 0.12)
    if rng.random() < 0.5:  # light from one side
        angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
        line = np.linspace(-1, 1, side, dtype=np.float32)
        colours = colours * (1 + strength * (math.cos(angle) * line[None] + math.sin(angle) * line[:, None]))[..., None]
    pixels = np.dstack([(np.clip(colours, 0, 1) * 255).astype(np.uint8), alpha])
    if rng.random() < 0.25:  # an outline
        wider = np.asarray(Image.fromarray(alpha).filter(ImageFilter.MaxFilter(rng.choice((3, 5)))))
        line_colour = rng.choice(((0, 0, 0), (255, 255, 255), (60, 40, 60)))
        share = (alpha / 255.0)[..., None]
        inside = pixels[..., :3] * share + np.array(line_colour) * (1 - share)
        pixels = np.dstack([inside.astype(np.uint8), wider])
    image, centre = Image.fromarray(pixels), side / 2
    across, up = (rng.uniform(0.95, 1.25) * rng.uniform(0.88, 1.14) for _ in range(2))  # above 1 is smaller
    shear = rng.gauss(0, 0.08)
    x, y = centre + rng.uniform(-2.5, 2.5), centre + rng.uniform(-2.5, 2.5)
    matrix = (across, shear, centre - across * x - shear * y, shear, up, centre - shear * x - up * y)
    image = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    return np.asarray(image)


class Varied:
    """Sprites by number or name, of which each is changed at random whenever it is taken."""

    def __init__(self, sprites, others, rng: random.Random) -> None:
        self.sprites, self.others, self.rng = sprites, others, rng

    def __getitem__(self, key) -> np.ndarray:
        sprite = self.sprites[key]
        if self.rng.random() < 0.15:  # halfway between two styles
            share = self.rng.uniform(0.3, 0.7)
            sprite = (sprite * (1 - share) + self.others[key] * share).astype(np.uint8)
        return varied(sprite, self.rng)


class Drawings:
    """Training drawings: names and scenes in the styles of ``STYLES``, changed at random, and basic shapes."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rng = seed, random.Random(f"drawings-{seed}")
        self.plain: dict[str, list] = {style: [] for style in STYLES}
        self.changed: dict[str, list] = {style: [] for style in STYLES}
        for data_set in (OpenMojiNames, partial(OpenMojiScenes, things=len(EVERY_THING))):
            made = {s: data_set("train", size=10**9, seed=seed, kinds=("caption",), styles=[s]) for s in STYLES}
            sprites = {style: data.sprites for style, data in made.items()}
            for place, (style, data) in enumerate(made.items()):
                self.plain[style].append(data)
                varied = data_set("train", size=10**9, seed=seed, kinds=("caption",), styles=[style])
                varied.sprites_by_style = {style: Varied(sprites[style], sprites[STYLES[place - 1]], self.rng)}
                self.changed[style].append(varied)

    def draw(self, index: int) -> tuple[np.ndarray, int]:
        """Draw an image.

        Args:
            index (int): The number of the image.

        Returns:
            The image [96, 96, 3], uint8, and the number of the thing that it shows alone, or -1.
        """
        self.rng.seed(f"drawing-{self.seed}-{index}")
        rng, chosen, thing = self.rng, self.rng.random(), -1
        if chosen < OF_SHAPES:
            image = draw_shapes(rng)
        else:
            names, scenes = (self.plain if rng.random() < AS_IT_IS else self.changed)[rng.choice(STYLES)]
            if chosen < OF_SHAPES + OF_NAMES:
                thing = names.thing_index(index)
            image = np.asarray((scenes if thing < 0 else names)[index]["image"])
        if rng.random() < 0.4:  # a part of it
            side = round(rng.uniform(0.5, 0.95) * CANVAS)
            x, y = (rng.randrange(CANVAS - side + 1) for _ in range(2))
            part = Image.fromarray(image[y : y + side, x : x + side])
            image = np.asarray(part.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC))
        if rng.random() < 0.2:  # other colours everywhere
            mix = hue_rotation(rng.uniform(0, 360)) * rng.uniform(0.7, 1.1)
            image = np.clip(image @ mix.T + rng.uniform(-20, 40), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(image[:, ::-1] if rng.random() < 0.5 else image), thing


def around(number: int, radii: Sequence[float] = (1.0,)) -> list[tuple[float, float]]:
    """List points at equal angles around the origin, the first one at the top, at the given radii in turn."""
    angles = [2 * math.pi * i / number for i in range(number)]
    return [
        (radii[i % len(radii)] * math.sin(angle), -radii[i % len(radii)] * math.cos(angle))
        for i, angle in enumerate(angles)
    ]


def outline(shape: str, rng: random.Random) -> list[tuple[float, float]]:
    """Choose the corners of a shape around the origin, inside a circle of radius 1."""
    turn = rng.uniform(-0.25, 0.25) if shape in ("square", "rectangle", "cross") else rng.uniform(0, 2 * math.pi)
    turn *= rng.random() < 0.5
    half, thin, t = math.sqrt(0.5), rng.uniform(0.25, 0.45), rng.uniform(0.2, 0.36)
    corners = {
        "circle": lambda: around(60),
        "ring": lambda: around(60),
        "ellipse": lambda: [(x, y * thin * 1.4) for x, y in around(60)],
        "square": lambda: [(-half, -half), (half, -half), (half, half), (-half, half)],
        "rectangle": lambda: [(-0.9, -thin), (0.9, -thin), (0.9, thin), (-0.9, thin)],
        "triangle": lambda: [(x, y * rng.uniform(0.8, 1)) for x, y in around(3)],
        "star": lambda: around(10, (1.0, 0.42)),
        "hexagon": lambda: around(6),
        "pentagon": lambda: around(5),
        "cross": lambda: [
            (x * a, y * b)
            for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            for a, b in (((1, t), (t, t), (t, 1)) if x * y > 0 else ((t, 1), (t, t), (1, t)))
        ],
    }[shape]()
    if shape in ("rectangle", "ellipse") and rng.random() < 0.5:
        corners = [(y, x) for x, y in corners]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in corners]


def draw_shapes(rng: random.Random) -> np.ndarray:
    """Draw one to three shapes of any size, place and colour on a plain background: [96, 96, 3], uint8."""
    number, side = rng.choice((1, 1, 1, 2, 2, 3)), rng.choice((96, 96, 96, 192, 64))
    names = list(PAINTS)
    chosen = rng.random()
    if chosen < 0.4:
        background = (255, 255, 255)
    elif chosen < 0.6:  # greys and pale colours
        grey = rng.randint(200, 255)
        background = tuple(min(255, grey + rng.randint(-12, 12)) for _ in range(3))
    else:
        background = canvas(rng.choice(list(COLOURS)), rng).getpixel((0, 0))
    image = Image.new("RGB", (side, side), background)
    paint = ImageDraw.Draw(image)
    boxes = [(0, 0, 1, 1)] if number == 1 else [(x, y, x + 0.5, y + 0.5) for x in (0, 0.5) for y in (0, 0.5)]
    for left, top, right, bottom in rng.sample(boxes, number):
        shape = rng.randrange(len(SHAPES))
        visible = [n for n in names if sum(abs(a - b) for a, b in zip(PAINTS[n], background, strict=True)) > 130]
        colour = rng.choice(visible)
        rgb = tuple(max(0, min(255, part + rng.randint(-15, 15))) for part in PAINTS[colour])
        radius = rng.uniform(0.12, 0.42 if number == 1 else 0.24)
        x, y = rng.uniform(left + radius, right - radius), rng.uniform(top + radius, bottom - radius)
        points = [(side * (x + radius * a), side * (y + radius * b)) for a, b in outline(SHAPES[shape], rng)]
        paint.polygon(points, fill=rgb)
        if SHAPES[shape] == "ring":
            inner = radius * rng.uniform(0.45, 0.7)
            hole = [side * (x - inner), side * (y - inner), side * (x + inner), side * (y + inner)]
            paint.ellipse(hole, background)
    return np.asarray(image.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC) if side != CANVAS else image)
