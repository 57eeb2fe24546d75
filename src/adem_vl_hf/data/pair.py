"""The truth behind an OpenMoji *pair* of pictures, and which pairs are held out for testing.

Each picture shows one to four of one thing on a colour of its own. What is held out for the test split are
*combinations*: pairs of things (those that the scenes hold out) and, where both pictures show the same thing, one pair
of its numbers. Every thing, number and colour is seen in training.
"""

import random
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from PIL import Image

from .drawing import COLOURS
from .scene import NUMBERS, THINGS, Group, Scene, draw_scene
from .scene import is_held_out as is_pair_held_out


@dataclass(frozen=True)
class Pair:
    """The truth about two pictures: what each shows, and on which colour."""

    groups: tuple[Group, Group]
    colours: tuple[str, str]


def swapped(pair: Pair) -> Pair:
    """The truth with the second picture first."""
    return Pair(pair.groups[::-1], pair.colours[::-1])


def is_held_out(pair: Pair) -> bool:
    """Whether this combination belongs to the test split, in either order. Depends on no seed."""
    one, other = pair.groups
    if one.thing != other.thing:
        return is_pair_held_out([Group(group.thing, 1) for group in pair.groups])
    # of the 16 ordered pairs of numbers one is drawn by the name, so that equal numbers are no more common in a split
    kept = divmod(crc32(one.name.encode()) % len(NUMBERS) ** 2, len(NUMBERS))
    return sorted((one.number, other.number)) == sorted(NUMBERS[place] for place in kept)


def random_pair(rng: random.Random, split: str, same: bool, unequal: bool = False) -> Pair:
    """A pair of the given split, of the same thing or of two; ``unequal``: the second has more of it."""
    colours = (rng.choice(list(COLOURS)), rng.choice(list(COLOURS)))
    while True:
        first = rng.randrange(len(THINGS))
        second = first if same else rng.randrange(len(THINGS))
        numbers = (rng.choice(NUMBERS), rng.choice(NUMBERS))
        if (not same and second == first) or (unequal and numbers[0] >= numbers[1]):
            continue
        pair = Pair((Group(first, numbers[0]), Group(second, numbers[1])), colours)
        if is_held_out(pair) == (split == "test"):
            return pair


def draw_pair(pair: Pair, sprites: dict[str, np.ndarray], rng: random.Random) -> list[Image.Image]:
    """The two pictures, each [CANVAS x CANVAS] RGB; ``sprites`` maps a thing's name to its pixels."""
    scenes = [Scene((group,), None, colour) for group, colour in zip(pair.groups, pair.colours, strict=True)]
    return [draw_scene(scene, sprites, rng) for scene in scenes]
