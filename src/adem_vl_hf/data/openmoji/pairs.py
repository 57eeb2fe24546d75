"""Draws OpenMoji *pairs*: two images per sample, with captions and questions that need both.

Each image shows one to four copies of one thing on a colour of its own. The test split is held out by *combinations*:
pairs of things (those that the scenes hold out) and, if both images show the same thing, one pair of its numbers. Every
thing, number and colour is seen in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..indexing import from_start
from ..sample import Sample
from .common import DEFAULT_SIZE, check_arguments, text_fields
from .drawing import COLOURS
from .scenes import NUMBERS, Group, Scene, draw_scene, phrase
from .scenes import is_held_out as is_pair_held_out
from .sprites import sprites_of
from .things import THINGS, plural

KINDS = ("caption", "same", "more", "which")
LAYOUT = "First picture: <image>\nSecond picture: <image>\n"
SIDES = ("the first", "the second")


@dataclass(frozen=True)
class Pair:
    """Describes what two images show.

    Args:
        groups (tuple[Group, Group]): The group of things in the first image and in the second.
        colours (tuple[str, str]): The colour of the first canvas and of the second, keys of ``COLOURS``.
    """

    groups: tuple[Group, Group]
    colours: tuple[str, str]


def swapped(pair: Pair) -> Pair:
    """Swap the two images.

    Args:
        pair (Pair): The pair.

    Returns:
        The pair with the second image first.
    """
    return Pair(pair.groups[::-1], pair.colours[::-1])


def is_held_out(pair: Pair) -> bool:
    """Tell whether a combination of things and numbers belongs to the test split.

    This depends neither on the order of the images nor on any seed.

    Args:
        pair (Pair): The pair.

    Returns:
        Whether it belongs to the test split.
    """
    one, other = pair.groups
    if one.thing != other.thing:
        return is_pair_held_out([Group(group.thing, 1) for group in pair.groups])
    # The name picks one of the 16 ordered pairs of numbers, so equal numbers are no more common in one split.
    kept = divmod(crc32(one.name.encode()) % len(NUMBERS) ** 2, len(NUMBERS))
    return sorted((one.number, other.number)) == sorted(NUMBERS[position] for position in kept)


def random_pair(rng: random.Random, split: str, same: bool, unequal: bool = False) -> Pair:
    """Make a random pair of a split.

    Args:
        rng (random.Random): The source of the choice.
        split (str): "train" or "test".
        same (bool): Whether both images show the same thing.
        unequal (bool): Whether the second image must have more copies than the first.

    Returns:
        The pair.
    """
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
    """Draw the two images of a pair.

    Args:
        pair (Pair): The pair.
        sprites (dict[str, np.ndarray]): The RGBA pixels [h, w, 4] of each thing by its name, uint8.
        rng (random.Random): The source of sizes, angles and positions.

    Returns:
        Two images of ``CANVAS`` x ``CANVAS`` pixels in mode RGB.
    """
    scenes = [Scene((group,), None, colour) for group, colour in zip(pair.groups, pair.colours, strict=True)]
    return [draw_scene(scene, sprites, rng) for scene in scenes]


def ask(pair: Pair, kind: str, side: int) -> dict[str, Any]:
    """Make the texts of a sample about a pair.

    Args:
        pair (Pair): The pair. The kind "more" needs two different numbers of the same thing, and "which" two things.
        kind (str): One of ``KINDS``.
        side (int): The image that "which" asks for: 0 for the first, 1 for the second.

    Returns:
        The fields ``prompt``, ``answer`` and ``references``, and ``choices`` for all but "caption".

    Raises:
        ValueError: The kind is unknown.
    """
    one, other = pair.groups
    if kind == "caption":
        return text_fields(f"{LAYOUT}The pictures show", f"first {phrase(one)}, then {phrase(other)}")
    if kind == "same":
        answer = "yes" if one.thing == other.thing else "no"
        return text_fields(f"{LAYOUT}Is the same thing in both pictures?", answer, choices=["yes", "no"])
    if kind == "more":
        question = f"{LAYOUT}Which picture has more {plural(one.name)}: the first or the second?"
        return text_fields(question, SIDES[one.number < other.number], choices=SIDES)
    if kind == "which":
        question = f"{LAYOUT}Which picture shows {phrase(pair.groups[side])}: the first or the second?"
        return text_fields(question, SIDES[side], choices=SIDES)
    raise ValueError(f"unknown kind {kind!r}; the pairs data set has {list(KINDS)}")


class OpenMojiPairs(Dataset[Sample]):
    """Draws pairs of images in ``images``, with captions and questions.

    Answers are balanced exactly: of the questions of one kind, every second has the other answer.

    Args:
        split (str): "train" or "test". No combination of things and numbers is in both.
        size (int): The number of samples.
        seed (int): The seed. All randomness follows from ``(seed, split, index)``.
        kinds (Sequence[str]): The kinds asked, in turn: "caption", "same" (Is the same thing in both?), "more" (Which
            of them has more?) and "which" (Which of them shows it?). A kind that is named twice is asked twice as
            often.

    Raises:
        ValueError: An argument has none of these values.
        ImportError: A package of the extra ``demo`` is not installed.
    """

    def __init__(
        self, split: str = "train", size: int = DEFAULT_SIZE, seed: int = 0, kinds: Sequence[str] = KINDS
    ) -> None:
        check_arguments("pairs", split, size, kinds, KINDS)
        self.split, self.size, self.seed, self.kinds = split, size, seed, tuple(kinds)
        self.sprites = sprites_of(THINGS)

    def __len__(self) -> int:
        return self.size

    def pair(self, index: int) -> tuple[Pair, str, int, random.Random]:
        """Choose the pair of a sample and the question about it.

        Args:
            index (int): The index of the sample.

        Returns:
            The pair, the kind, the side asked for, and the generator that ``draw_pair`` goes on with.

        Raises:
            IndexError: There is no such sample.
        """
        index = from_start(index, self.size)
        rng = random.Random(f"pairs-{self.seed}-{self.split}-{index}")
        turn, position = divmod(index, len(self.kinds))
        kind, answer = self.kinds[position], turn % 2
        same = {"caption": rng.random() < 0.25, "same": answer == 1, "more": True, "which": False}[kind]
        pair = random_pair(rng, self.split, same, unequal=kind == "more")
        if kind == "more" and answer == 0:
            pair = swapped(pair)
        return pair, kind, answer, rng

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, self.size)
        pair, kind, side, rng = self.pair(index)
        images = draw_pair(pair, self.sprites, rng)
        texts = ask(pair, kind, side)
        return Sample(id=f"pairs-{self.split}-{index}", image=None, images=images, kind=kind, **texts)  # type: ignore[typeddict-item]
