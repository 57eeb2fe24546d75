"""The truth behind an OpenMoji *scene*, which scenes are held out for testing, and how one is drawn.

A scene is one to four plain emoji of one or two kinds on a coloured canvas.

What is held out for the test split are *combinations*: pairs of things that never share a training picture, and, for
pictures of a single kind, one of its four numbers per thing. Every thing, number, place and colour is seen in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image

from .drawing import CANVAS, COLOURS, canvas, place

# a hundred things that look unlike one another and can be counted
THINGS = (
    "wolf fox cat lion tiger horse zebra cow pig camel giraffe elephant mouse rabbit bear koala panda penguin duck "
    "owl swan frog crocodile turtle snake whale dolphin shark octopus snail butterfly ant spider rose sunflower tulip "
    "cactus mushroom banana pineapple strawberry lemon watermelon pear tomato carrot potato onion avocado coconut "
    "pretzel hamburger pizza taco sandwich cookie doughnut lollipop croissant teapot bus ambulance taxi tractor "
    "motorcycle bicycle airplane helicopter rocket sailboat canoe locomotive house castle church tent balloon trophy "
    "basketball kite guitar violin trumpet drum camera television laptop telephone candle pencil hammer key bomb "
    "umbrella crown bell chair toilet door star"
).split()
NUMBERS = (1, 2, 3, 4)
PAIR_NUMBERS = ((1, 1),) * 5 + ((1, 2), (2, 1)) * 2 + ((2, 2), (1, 3), (3, 1))
RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HELD_OUT_PAIRS = 15  # per cent of the unordered pairs of things


@dataclass(frozen=True)
class Group:
    """``number`` copies of one thing; ``thing`` indexes THINGS."""

    thing: int
    number: int

    @property
    def name(self) -> str:
        return THINGS[self.thing]


@dataclass(frozen=True)
class Scene:
    """The truth about one picture. With two groups, the first stands ``relation`` (``"left of"`` ...) the second."""

    groups: tuple[Group, ...]
    relation: str | None
    colour: str


def is_held_out(groups: Sequence[Group]) -> bool:
    """Whether this combination belongs to the test split. Depends on what is combined alone, not on any seed."""
    if len(groups) == 1:
        return groups[0].number == 1 + crc32(groups[0].name.encode()) % len(NUMBERS)
    pair = "+".join(sorted(group.name for group in groups))
    return crc32(pair.encode()) % 100 < HELD_OUT_PAIRS


def random_scene(rng: random.Random, split: str) -> Scene:
    """A scene of the given split; three in ten are of a single kind."""
    while True:
        colour = rng.choice(list(COLOURS))
        if rng.random() < 0.3:
            scene = Scene((Group(rng.randrange(len(THINGS)), rng.choice(NUMBERS)),), None, colour)
        else:
            first, second = rng.sample(range(len(THINGS)), 2)
            numbers = rng.choice(PAIR_NUMBERS)
            groups = (Group(first, numbers[0]), Group(second, numbers[1]))
            scene = Scene(groups, rng.choice(list(RELATIONS)), colour)
        if is_held_out(scene.groups) == (split == "test"):
            return scene


def _spots(number: int, rng: random.Random) -> list[tuple[float, float]]:
    """Centres for pictures of a single kind: cells of a 2 x 2 grid, or anywhere near the middle for one alone."""
    if number == 1:
        return [(CANVAS / 2 + rng.uniform(-20, 20), CANVAS / 2 + rng.uniform(-20, 20))]
    cells = rng.sample([(x, y) for x in (0.27, 0.73) for y in (0.27, 0.73)], number)
    return [(CANVAS * x + rng.uniform(-4, 4), CANVAS * y + rng.uniform(-4, 4)) for x, y in cells]


def _line(number: int, size: float, rng: random.Random) -> list[float]:
    """Centres along the free axis for one group of a pair: evenly apart, so that copies never hide one another."""
    gap = min(size * 1.05, (CANVAS - size) / max(1, number - 1))
    middle = CANVAS / 2 + rng.uniform(-1, 1) * max(0.0, min(8.0, (CANVAS - size - gap * (number - 1)) / 2))
    return [middle + gap * (i - (number - 1) / 2) for i in range(number)]


def draw_scene(scene: Scene, sprites: dict[str, np.ndarray], rng: random.Random) -> Image.Image:
    """The picture of a scene, [CANVAS x CANVAS] RGB; ``sprites`` maps a thing's name to its pixels."""
    picture = canvas(scene.colour, rng)
    if scene.relation is None:
        (group,) = scene.groups
        size = rng.uniform(34, 60) if group.number == 1 else rng.uniform(34, 42)
        for spot in _spots(group.number, rng):
            place(picture, sprites[group.name], spot, size, rng, tilt=12)
        return picture
    most = max(group.number for group in scene.groups)
    size = rng.uniform(36, 44) if most <= 2 else rng.uniform(28, 31)
    first_side, second_side = (0.26, 0.74) if scene.relation in ("left of", "above") else (0.74, 0.26)
    for group, side in zip(scene.groups, (first_side, second_side), strict=True):
        for along in _line(group.number, size, rng):
            across = CANVAS * side + rng.uniform(-3, 3)
            spot = (across, along) if scene.relation in ("left of", "right of") else (along, across)
            place(picture, sprites[group.name], spot, size, rng, tilt=12)
    return picture
