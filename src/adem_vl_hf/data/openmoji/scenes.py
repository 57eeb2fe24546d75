"""Draws OpenMoji *scenes*: one to four pictograms on a coloured canvas, with captions and questions.

The test split is held out by *combinations*: pairs of things that never share a training image, and one of the four
numbers of each thing where it stands alone. Every thing, number, position and colour is seen in training.

In reading order: the truth about a scene and the split that it belongs to, its drawing, its texts, and the data set.
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
from ..sample import CAPTION_PROMPT, Question, Sample
from .common import CHOICES, DEFAULT_SIZE, check_arguments, choice_prompt, text_fields
from .drawing import CANVAS, COLOURS, canvas, place
from .sprites import sprites_of
from .styles import OPENMOJI, check_styles, choose_style, sprites_in
from .things import EVERY_THING, THINGS, plural, singular

NUMBERS = (1, 2, 3, 4)
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
PAIR_NUMBERS = ((1, 1),) * 5 + ((1, 2), (2, 1)) * 2 + ((2, 2), (1, 3), (3, 1))
ALIKE_NUMBERS = ((1, 1),) * 5 + ((2, 2),)
RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
DIRECTIONS = {"left of": "left", "right of": "right", "above": "above", "below": "below"}  # relation -> answer
FEWEST_THINGS = 6  # a choice shows two and names three others; both splits have pairs and single groups of them
HELD_OUT_PAIRS = 15  # per cent of the unordered pairs of things
KINDS = ("caption", "presence", "count", "relation", "choice")


@dataclass(frozen=True)
class Group:
    """Describes several copies of one thing.

    Args:
        thing (int): The thing, as its position in ``EVERY_THING``, which begins with ``THINGS``.
        number (int): The number of copies, one of ``NUMBERS``.
    """

    thing: int
    number: int

    @property
    def name(self) -> str:
        """Return the name of the thing."""
        return EVERY_THING[self.thing]


@dataclass(frozen=True)
class Scene:
    """Describes what one image shows.

    Args:
        groups (tuple[Group, ...]): One or two groups.
        relation (str | None): A key of ``RELATIONS`` that says how the first group stands to the second ("left of").
            None for one group.
        colour (str): The colour of the canvas, a key of ``COLOURS``.
    """

    groups: tuple[Group, ...]
    relation: str | None
    colour: str


def is_held_out(groups: Sequence[Group]) -> bool:
    """Tell whether a combination of things and numbers belongs to the test split.

    This depends on the combination alone and not on any seed.

    Args:
        groups (Sequence[Group]): One or two groups.

    Returns:
        Whether it belongs to the test split.
    """
    if len(groups) == 1:
        return groups[0].number == 1 + crc32(groups[0].name.encode()) % len(NUMBERS)
    pair = "+".join(sorted(group.name for group in groups))
    return crc32(pair.encode()) % 100 < HELD_OUT_PAIRS


def random_scene(rng: random.Random, split: str, things: int = len(THINGS), alike: bool = False) -> Scene:
    """Make random scenes, three in ten with a single group, until one belongs to a split.

    Args:
        rng (random.Random): The source of the choice.
        split (str): "train" or "test".
        things (int): How many of ``EVERY_THING`` a scene may show.
        alike (bool): Whether two groups have the same number of copies.

    Returns:
        The scene.
    """
    while True:
        colour = rng.choice(list(COLOURS))
        if rng.random() < 0.3:
            scene = Scene((Group(rng.randrange(things), rng.choice(NUMBERS)),), None, colour)
        else:
            first, second = rng.sample(range(things), 2)
            numbers = rng.choice(ALIKE_NUMBERS if alike else PAIR_NUMBERS)
            groups = (Group(first, numbers[0]), Group(second, numbers[1]))
            scene = Scene(groups, rng.choice(list(RELATIONS)), colour)
        if is_held_out(scene.groups) == (split == "test"):
            return scene


def draw_scene(scene: Scene, sprites: dict[str, np.ndarray], rng: random.Random) -> Image.Image:
    """Draw a scene.

    Args:
        scene (Scene): The scene.
        sprites (dict[str, np.ndarray]): The RGBA pixels [h, w, 4] of each thing by its name, uint8.
        rng (random.Random): The source of sizes, angles and exact positions.

    Returns:
        An image of ``CANVAS`` x ``CANVAS`` pixels in mode RGB.
    """
    image = canvas(scene.colour, rng)
    if scene.relation is None:
        (group,) = scene.groups
        size = rng.uniform(34, 60) if group.number == 1 else rng.uniform(34, 42)
        for centre in _single_group_centres(group.number, rng):
            place(image, sprites[group.name], centre, size, rng, tilt=12)
        return image
    most_copies = max(group.number for group in scene.groups)
    size = rng.uniform(36, 44) if most_copies <= 2 else rng.uniform(28, 31)
    first_side, second_side = (0.26, 0.74) if scene.relation in ("left of", "above") else (0.74, 0.26)
    for group, side in zip(scene.groups, (first_side, second_side), strict=True):
        for along in _line(group.number, size, rng):
            across = CANVAS * side + rng.uniform(-3, 3)
            centre = (across, along) if scene.relation in ("left of", "right of") else (along, across)
            place(image, sprites[group.name], centre, size, rng, tilt=12)
    return image


def _single_group_centres(number: int, rng: random.Random) -> list[tuple[float, float]]:
    """Choose the centres of the only group: cells of a 2 x 2 grid, or any point near the middle for one copy."""
    if number == 1:
        return [(CANVAS / 2 + rng.uniform(-20, 20), CANVAS / 2 + rng.uniform(-20, 20))]
    cells = rng.sample([(x, y) for x in (0.27, 0.73) for y in (0.27, 0.73)], number)
    return [(CANVAS * x + rng.uniform(-4, 4), CANVAS * y + rng.uniform(-4, 4)) for x, y in cells]


def _line(number: int, size: float, rng: random.Random) -> list[float]:
    """Choose the centres of one of two groups along its line, at equal distances so that no copy hides another."""
    gap = min(size * 1.05, (CANVAS - size) / max(1, number - 1))
    middle = CANVAS / 2 + rng.uniform(-1, 1) * max(0.0, min(8.0, (CANVAS - size - gap * (number - 1)) / 2))
    return [middle + gap * (i - (number - 1) / 2) for i in range(number)]


def phrase(group: Group) -> str:
    """Name a group with its number: "a fox", "three foxes".

    Args:
        group (Group): The group.

    Returns:
        The phrase.
    """
    return singular(group.name) if group.number == 1 else f"{NUMBER_WORDS[group.number]} {plural(group.name)}"


def captions(scene: Scene) -> list[str]:
    """List every true caption of a scene.

    Args:
        scene (Scene): The scene.

    Returns:
        One caption for one group; for two groups, two captions that begin with one group each.
    """
    if scene.relation is None:
        return [f"{phrase(scene.groups[0])} on {scene.colour}"]
    first, second = (phrase(group) for group in scene.groups)
    return [
        f"{first} {scene.relation} {second} on {scene.colour}",
        f"{second} {RELATIONS[scene.relation]} {first} on {scene.colour}",
    ]


def ask(scene: Scene, kind: str, rng: random.Random, things: int = len(THINGS)) -> dict[str, Any]:
    """Make the texts of a sample about a scene.

    Args:
        scene (Scene): The scene. The kind "relation" needs one with two groups.
        kind (str): One of ``KINDS``.
        rng (random.Random): The source of what is asked.
        things (int): How many of ``EVERY_THING`` may be asked about.

    Returns:
        The fields ``prompt``, ``answer`` and ``references``, for the kind "choice" also ``choices``.

    Raises:
        ValueError: The kind is unknown.
    """
    present = {group.thing for group in scene.groups}
    if kind == "caption":
        references = captions(scene)
        return text_fields(CAPTION_PROMPT, rng.choice(references), references)
    if kind == "presence":
        answer = rng.random() < 0.5
        thing = rng.choice(sorted(present)) if answer else _absent(present, rng, 1, things)[0]
        return text_fields(f"Is there {singular(EVERY_THING[thing])}?", "yes" if answer else "no")
    if kind == "count":
        group = rng.choice(scene.groups)
        return text_fields(f"How many {plural(group.name)} are there?", NUMBER_WORDS[group.number])
    if kind == "relation":
        one, other = (0, 1) if rng.random() < 0.5 else (1, 0)
        assert scene.relation is not None  # the data set asks this only of scenes with two groups
        relation = scene.relation if one == 0 else RELATIONS[scene.relation]
        names = [g.name if g.number == 1 else plural(g.name) for g in (scene.groups[one], scene.groups[other])]
        verb = "is" if scene.groups[one].number == 1 else "are"
        return text_fields(f"Where {verb} the {names[0]}, seen from the {names[1]}?", DIRECTIONS[relation])
    if kind == "choice":
        answer_name = EVERY_THING[rng.choice(sorted(present))]
        choices = [EVERY_THING[i] for i in _absent(present, rng, CHOICES - 1, things)]
        choices.insert(rng.randrange(CHOICES), answer_name)
        return text_fields(choice_prompt(choices), answer_name, choices=choices)
    raise ValueError(f"unknown kind {kind!r}; the scenes data set has {list(KINDS)}")


def _absent(present: set[int], rng: random.Random, number: int, things: int) -> list[int]:
    """Choose some things that a scene does not show."""
    drawn = rng.sample(range(things), number + len(present))
    return [thing for thing in drawn if thing not in present][:number]


class OpenMojiScenes(Dataset[Sample]):
    """Draws scenes of one or two groups of things, with captions and questions.

    Args:
        split (str): "train" or "test". No combination of things and numbers is in both.
        size (int): The number of samples.
        seed (int): The seed. All randomness follows from ``(seed, split, index)``.
        kinds (Sequence[str] | None): The kinds asked, drawn with equal chances for each sample: "caption",
            "presence", "count", "relation" (of scenes with two groups) and "choice". A kind that is named twice is
            asked twice as often. None means all of them.
        turns (int): How many questions are asked about each scene, in one sample. All their prompts are different, so
            that there may be fewer where the kinds have no more.
        styles (Sequence[str]): The styles of the drawings, from ``STYLES`` in ``data.openmoji.styles``. Each scene is
            drawn in one of them, and is otherwise the same in any.
        things (int): How many things the scenes show: the first of ``EVERY_THING``. Which thing stands where is
            learned from a few much sooner than from many.
        alike (bool): Whether two groups in a scene have the same number of copies, so that no number in a question
            tells which of them it asks about.

    Raises:
        ValueError: An argument has none of these values.
        ImportError: A package of the extra ``demo`` is not installed.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = DEFAULT_SIZE,
        seed: int = 0,
        kinds: Sequence[str] | None = None,
        turns: int = 1,
        styles: Sequence[str] = (OPENMOJI,),
        things: int = len(THINGS),
        alike: bool = False,
    ) -> None:
        if turns < 1:
            raise ValueError(f"turns must be at least 1, got {turns}")
        if not FEWEST_THINGS <= things <= len(EVERY_THING):
            raise ValueError(f"things must be {FEWEST_THINGS} to {len(EVERY_THING)}, got {things}")
        self.turns = turns
        self.kinds = tuple(kinds or KINDS)
        check_arguments("scenes", split, size, self.kinds, KINDS)
        check_styles(styles)
        self.split, self.size, self.seed, self.styles = split, size, seed, tuple(styles)
        self.things, self.alike = things, alike
        self.sprites_by_style = {style: sprites_of(EVERY_THING[:things], sprites_in(style)) for style in self.styles}
        self.sprites = self.sprites_by_style[self.styles[0]]

    def __len__(self) -> int:
        return self.size

    def scene(self, index: int) -> tuple[Scene, str, random.Random]:
        """Choose the scene of a sample and the kind of question about it.

        Args:
            index (int): The index of the sample.

        Returns:
            The scene, the kind, and the generator that ``draw_scene`` and then ``ask`` go on with.

        Raises:
            IndexError: There is no such sample.
        """
        index = from_start(index, self.size)
        rng = random.Random(f"scenes-{self.seed}-{self.split}-{index}")
        kind = rng.choice(self.kinds)
        scene = random_scene(rng, self.split, self.things, self.alike)
        while kind == "relation" and scene.relation is None:
            scene = random_scene(rng, self.split, self.things, self.alike)
        return scene, kind, rng

    def number_of_turns(self, index: int) -> int:
        """Count the questions about a scene without drawing it.

        Args:
            index (int): The index of the sample.

        Returns:
            ``turns``, or fewer where the kinds have no more different prompts.
        """
        if self.turns == 1:
            return 1
        scene, kind, _ = self.scene(index)
        return len(self._questions(index, scene, kind))

    def _questions(self, index: int, scene: Scene, kind: str) -> list[Question]:
        """Ask about a scene until there are enough different prompts, or none comes up any more."""
        rng = random.Random(f"scenes-questions-{self.seed}-{self.split}-{index}")
        found: dict[str, Question] = {}
        for _ in range(20 * self.turns):
            question = Question(kind=kind, **ask(scene, kind, rng, self.things))  # type: ignore[typeddict-item]
            found.setdefault(question["prompt"], question)
            if len(found) == self.turns:
                break
            kind = rng.choice([kind for kind in self.kinds if kind != "relation" or scene.relation] or [kind])
        return list(found.values())

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, self.size)
        scene, kind, rng = self.scene(index)
        style = choose_style(self.styles, f"scenes-{self.seed}-{self.split}-{index}")
        image = draw_scene(scene, self.sprites_by_style[style], rng)
        name = f"scenes-{self.split}-{index}"
        if self.turns == 1:
            texts = ask(scene, kind, rng, self.things)
            return Sample(id=name, image=image, kind=kind, **texts)  # type: ignore[typeddict-item]
        questions = self._questions(index, scene, kind)
        return Sample(id=name, image=image, turns=questions, **questions[-1])
