"""Draws what ``examples/widen_tower.py`` trains on: one layout in several styles, and pictures of basic shapes.

A layout is a training sample of the OpenMoji data sets. The teacher sees it as it is. The student sees it with the
sprites of another style, which are changed at random: colours, shading, outline, proportions and sharpness. The style
``noto`` is never drawn here, so that it can tell what the student makes of drawings that it has not seen.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes
from adem_vl_hf.data.openmoji.drawing import CANVAS, COLOURS, canvas

STYLES = ("openmoji", "twemoji", "fluent")  # the student's; the last style, noto, is for the test
PLAIN = 0.5  # the share of layouts that the student sees in OpenMoji's style just as the teacher does
GRID = 8  # patches of 12 pixels in a row
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


class Layouts:
    """Training layouts of names and scenes, each drawn for the teacher and in every style for the student."""

    def __init__(self, seed: int, names: float = 0.75) -> None:
        self.names_share, self.rng = names, random.Random(f"varied-{seed}")
        self.as_is, self.changed = [], {style: [] for style in STYLES}
        for data_set in (OpenMojiNames, OpenMojiScenes):
            made = {s: data_set("train", size=10**9, seed=seed, kinds=("caption",), styles=[s]) for s in STYLES}
            plain = {style: data.sprites for style, data in made.items()}
            self.as_is.append(data_set("train", size=10**9, seed=seed, kinds=("caption",)))
            for place, (style, data) in enumerate(made.items()):
                data.sprites_by_style = {style: Varied(plain[style], plain[STYLES[place - 1]], self.rng)}
                self.changed[style].append(data)

    def draw(self, index: int, styles: Sequence[str]) -> tuple[np.ndarray, int]:
        """Draw layout ``index``.

        Args:
            index (int): The number of the layout.
            styles (Sequence[str]): The styles that the student sees.

        Returns:
            The images [1 + styles, 96, 96, 3], uint8, the teacher's first, and the number of the thing (-1 of a scene).
        """
        self.rng.seed(f"layout-{index}")
        kind = 0 if self.rng.random() < self.names_share else 1
        first = self.as_is[kind][index]["image"]
        plain = self.rng.random() < PLAIN
        images = [first if plain and s == "openmoji" else self.changed[s][kind][index]["image"] for s in styles]
        pixels = np.stack([np.asarray(image) for image in (first, *images)])
        thing = self.as_is[0].thing_index(index) if kind == 0 else -1
        return (pixels[:, :, ::-1] if self.rng.random() < 0.3 else pixels), thing


class ShapePicture(NamedTuple):
    """A picture of one to three shapes, and the truth about it.

    Args:
        pixels (np.ndarray): [96, 96, 3], uint8.
        shapes (np.ndarray): [64], for each patch 0 or one more than the number of the shape that covers it.
        colours (np.ndarray): [64], the same for its colour.
    """

    pixels: np.ndarray
    shapes: np.ndarray
    colours: np.ndarray


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


def draw_shapes(rng: random.Random) -> ShapePicture:
    """Draw one to three shapes of any size, place and colour on a plain background."""
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
    image, label = Image.new("RGB", (side, side), background), Image.new("L", (side, side), 0)
    paint, mark = ImageDraw.Draw(image), ImageDraw.Draw(label)
    boxes = [(0, 0, 1, 1)] if number == 1 else [(x, y, x + 0.5, y + 0.5) for x in (0, 0.5) for y in (0, 0.5)]
    objects = []
    for left, top, right, bottom in rng.sample(boxes, number):
        shape = rng.randrange(len(SHAPES))
        visible = [n for n in names if sum(abs(a - b) for a, b in zip(PAINTS[n], background, strict=True)) > 130]
        colour = rng.choice(visible)
        rgb = tuple(max(0, min(255, part + rng.randint(-15, 15))) for part in PAINTS[colour])
        radius = rng.uniform(0.12, 0.42 if number == 1 else 0.24)
        x, y = rng.uniform(left + radius, right - radius), rng.uniform(top + radius, bottom - radius)
        points = [(side * (x + radius * a), side * (y + radius * b)) for a, b in outline(SHAPES[shape], rng)]
        paint.polygon(points, fill=rgb)
        objects.append((shape, names.index(colour)))
        mark.polygon(points, fill=len(objects))
        if SHAPES[shape] == "ring":
            inner = radius * rng.uniform(0.45, 0.7)
            hole = [side * (x - inner), side * (y - inner), side * (x + inner), side * (y + inner)]
            paint.ellipse(hole, background)
            mark.ellipse(hole, 0)
    pixels = np.asarray(image.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC) if side != CANVAS else image)
    found = np.asarray(label.resize((CANVAS, CANVAS), Image.Resampling.NEAREST))
    cells = found.reshape(GRID, CANVAS // GRID, GRID, CANVAS // GRID).swapaxes(1, 2).reshape(GRID * GRID, -1)
    shapes, colours = np.zeros(GRID * GRID, np.int64), np.zeros(GRID * GRID, np.int64)
    for number, (shape, colour) in enumerate(objects, 1):
        covered = (cells == number).mean(1) > 0.25
        shapes[covered], colours[covered] = shape + 1, colour + 1
    return ShapePicture(pixels, shapes, colours)
