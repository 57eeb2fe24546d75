"""The truth behind an OpenMoji *scene*, which scenes are held out for testing, and how one is drawn.

A scene is one to four plain emoji of one or two kinds on a coloured canvas.

What is held out for the test split are *combinations*: pairs of things that never share a training picture, and, for
pictures of a single kind, one of its four numbers per thing. Every thing, number, place and colour is seen in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..sample import CAPTION_PROMPT, CHOICES, Sample, check_arguments, choice_prompt
from .drawing import CANVAS, COLOURS, canvas, place
from .sprites import need, sprites_of

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


KINDS = ("caption", "presence", "count", "relation", "choice")
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
DIRECTIONS = {"left of": "left", "right of": "right", "above": "above", "below": "below"}


@cache
def _inflect():
    return need("inflect").engine()


@cache
def plural(name: str) -> str:
    """``fox`` -> ``foxes``."""
    return _inflect().plural_noun(name)


@cache
def singular(name: str) -> str:
    """``fox`` -> ``a fox``."""
    return _inflect().a(name)


def phrase(group: Group) -> str:
    """``a fox``, ``three foxes``."""
    return singular(group.name) if group.number == 1 else f"{NUMBER_WORDS[group.number]} {plural(group.name)}"


def captions(scene: Scene) -> list[str]:
    """Every true caption of the scene."""
    if scene.relation is None:
        return [f"{phrase(scene.groups[0])} on {scene.colour}"]
    first, second = (phrase(group) for group in scene.groups)
    return [
        f"{first} {scene.relation} {second} on {scene.colour}",
        f"{second} {RELATIONS[scene.relation]} {first} on {scene.colour}",
    ]


def ask(scene: Scene, kind: str, rng: random.Random) -> dict[str, Any]:
    """Prompt, answer, references (and choices) of one sample about ``scene``."""
    present = {group.thing for group in scene.groups}
    if kind == "caption":
        references = captions(scene)
        return _pair(CAPTION_PROMPT, rng.choice(references), references)
    if kind == "presence":
        answer = rng.random() < 0.5
        thing = rng.choice(sorted(present)) if answer else _absent(present, rng, 1)[0]
        return _pair(f"Is there {singular(THINGS[thing])}?", "yes" if answer else "no")
    if kind == "count":
        group = rng.choice(scene.groups)
        return _pair(f"How many {plural(group.name)} are there?", NUMBER_WORDS[group.number])
    if kind == "relation":
        one, other = (0, 1) if rng.random() < 0.5 else (1, 0)
        assert scene.relation is not None  # the data set asks this of pictures of two kinds only
        relation = scene.relation if one == 0 else RELATIONS[scene.relation]
        names = [g.name if g.number == 1 else plural(g.name) for g in (scene.groups[one], scene.groups[other])]
        verb = "is" if scene.groups[one].number == 1 else "are"
        return _pair(f"Where {verb} the {names[0]}, seen from the {names[1]}?", DIRECTIONS[relation])
    if kind == "choice":
        answer_name = THINGS[rng.choice(sorted(present))]
        choices = [THINGS[i] for i in _absent(present, rng, CHOICES - 1)]
        choices.insert(rng.randrange(CHOICES), answer_name)
        return _pair(choice_prompt(choices), answer_name) | {"choices": choices}
    raise ValueError(f"unknown kind {kind!r}; the scenes data set has {list(KINDS)}")


def _absent(present: set[int], rng: random.Random, number: int) -> list[int]:
    drawn = rng.sample(range(len(THINGS)), number + len(present))
    return [thing for thing in drawn if thing not in present][:number]


def _pair(prompt: str, answer: str, references: list[str] | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "answer": f" {answer}", "references": references or [answer]}


class OpenMojiScenes(Dataset):
    """Composed scenes with captions and questions (the grammar is in ``scene_grammar``).

    Args:
        split: ``"train"`` or ``"test"``; no combination of things and numbers is in both.
        size: number of samples.
        seed: all randomness follows from ``(seed, split, index)``.
        kinds: the kinds asked, drawn with equal chance per sample: ``"caption"``, ``"presence"``, ``"count"``,
            ``"relation"`` (pictures of two kinds only), ``"choice"``. Name one twice to have it twice as often.
    """

    def __init__(self, split: str = "train", size: int = 20_000, seed: int = 0, kinds: Sequence[str] | None = None):
        self.kinds = tuple(kinds or KINDS)
        check_arguments("scenes", split, size, self.kinds, KINDS)
        self.split, self.size, self.seed = split, size, seed
        self.sprites = sprites_of(THINGS)

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> tuple[Scene, str, random.Random]:
        """The truth of sample ``index``, the kind asked, and the generator that goes on to draw and to ask."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"scenes-{self.seed}-{self.split}-{index}")
        kind = rng.choice(self.kinds)
        scene = random_scene(rng, self.split)
        while kind == "relation" and scene.relation is None:
            scene = random_scene(rng, self.split)
        return scene, kind, rng

    def __getitem__(self, index: int) -> Sample:
        scene, kind, rng = self.scene(index)
        picture = draw_scene(scene, self.sprites, rng)
        return Sample(id=f"scenes-{self.split}-{index}", image=picture, kind=kind, **ask(scene, kind, rng))  # type: ignore[typeddict-item]
