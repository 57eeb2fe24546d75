"""The truth behind an OpenMoji *pair* of pictures, and which pairs are held out for testing.

Each picture shows one to four of one thing on a colour of its own. What is held out for the test split are
*combinations*: pairs of things (those that the scenes hold out) and, where both pictures show the same thing, one pair
of its numbers. Every thing, number and colour is seen in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..sample import Sample, check_arguments
from .drawing import COLOURS
from .scenes import NUMBERS, THINGS, Group, Scene, draw_scene, phrase, plural
from .scenes import is_held_out as is_pair_held_out
from .sprites import sprites_of


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


KINDS = ("caption", "same", "more", "which")
LAYOUT = "First picture: <image>\nSecond picture: <image>\n"
SIDES = ("the first", "the second")


def ask(pair: Pair, kind: str, side: int) -> dict[str, Any]:
    """Prompt, answer, references (and choices) of one sample.

    Args:
        pair: for "more" two different numbers of the same thing, for "which" two things.
        kind: one of ``KINDS``.
        side: the picture (0 or 1) that "which" asks for.
    """
    one, other = pair.groups
    if kind == "caption":
        return _texts("The pictures show", f"first {phrase(one)}, then {phrase(other)}")
    if kind == "same":
        answer = "yes" if one.thing == other.thing else "no"
        return _texts("Is the same thing in both pictures?", answer, ["yes", "no"])
    if kind == "more":
        answer = SIDES[one.number < other.number]
        return _texts(f"Which picture has more {plural(one.name)}: the first or the second?", answer, [*SIDES])
    if kind == "which":
        question = f"Which picture shows {phrase(pair.groups[side])}: the first or the second?"
        return _texts(question, SIDES[side], [*SIDES])
    raise ValueError(f"unknown kind {kind!r}; the pairs data set has {list(KINDS)}")


def _texts(question: str, answer: str, choices: list[str] | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {"prompt": LAYOUT + question, "answer": f" {answer}", "references": [answer]}
    return result if choices is None else result | {"choices": choices}


class OpenMojiPairs(Dataset[Sample]):
    """Pairs of pictures with captions and questions (the grammar is in ``pair_grammar``), in ``images``.

    Answers are balanced exactly: of the questions of one kind, every second has the other answer.

    Args:
        split: ``"train"`` or ``"test"``; no combination of things and numbers is in both.
        size: number of samples.
        seed: all randomness follows from ``(seed, split, index)``.
        kinds: the kinds asked, in turn: ``"caption"``, ``"same"`` (the same thing in both?), ``"more"`` (which of them
            has more?), ``"which"`` (which of them shows it?). Name one twice to have it twice as often.
    """

    def __init__(self, split: str = "train", size: int = 20_000, seed: int = 0, kinds: Sequence[str] = KINDS) -> None:
        check_arguments("pairs", split, size, kinds, KINDS)
        self.split, self.size, self.seed, self.kinds = split, size, seed, tuple(kinds)
        self.sprites = sprites_of(THINGS)

    def __len__(self) -> int:
        return self.size

    def pair(self, index: int) -> tuple[Pair, str, int, random.Random]:
        """The truth of sample ``index``, the kind asked, the side asked for, and the generator that goes on to draw."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"pairs-{self.seed}-{self.split}-{index}")
        turn, place = divmod(index, len(self.kinds))
        kind, answer = self.kinds[place], turn % 2
        same = {"caption": rng.random() < 0.25, "same": answer == 1, "more": True, "which": False}[kind]
        pair = random_pair(rng, self.split, same, unequal=kind == "more")
        if kind == "more" and answer == 0:
            pair = swapped(pair)
        return pair, kind, answer, rng

    def __getitem__(self, index: int) -> Sample:
        pair, kind, side, rng = self.pair(index)
        pictures = draw_pair(pair, self.sprites, rng)
        texts = ask(pair, kind, side)
        return Sample(id=f"pairs-{self.split}-{index}", image=None, images=pictures, kind=kind, **texts)  # type: ignore[typeddict-item]
