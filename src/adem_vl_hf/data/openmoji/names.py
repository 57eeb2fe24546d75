"""Draws OpenMoji *names*: images of one pictogram, and the question for its name.

Both splits show the same things. They differ in the drawing (size, angle, position and background), whose random
numbers are never shared between the splits.
"""

import random
from collections.abc import Sequence
from functools import lru_cache

from torch.utils.data import Dataset

from ..indexing import from_start
from ..sample import Sample
from .common import CHOICES, check_arguments, choice_prompt, text_fields
from .drawing import CANVAS, COLOURS, canvas, place
from .sprites import openmoji
from .styles import OPENMOJI, check_styles, choose_style, sprites_in

KINDS = ("caption", "choice")
# Not that of the captions of scenes: for the image of one emoji, the same words would ask for two answers, "hamburger"
# and "a hamburger on yellow".
NAME_PROMPT = "What is this?"


class OpenMojiNames(Dataset[Sample]):
    """Draws single pictograms at random and asks for their names.

    Args:
        split (str): "train" or "test". Both have the same things but never the same drawing.
        size (int | None): The number of samples. None means every thing once for each kind.
        seed (int): The seed. All randomness follows from ``(seed, split, index)``.
        kinds (Sequence[str]): The kinds asked, in turn: "caption" (say what it is) and "choice" (choose one of four
            names).
        styles (Sequence[str]): The styles of the drawings, from ``STYLES`` in ``data.openmoji.styles``. Each sample is
            drawn in one of them, and is otherwise the same in any.

    Raises:
        ValueError: An argument has none of these values.
        ImportError: A package of the extra ``demo`` is not installed.
    """

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        kinds: Sequence[str] = KINDS,
        styles: Sequence[str] = (OPENMOJI,),
    ) -> None:
        check_arguments("names", split, size, kinds, KINDS)
        check_styles(styles)
        self.split, self.seed, self.kinds, self.styles = split, seed, tuple(kinds), tuple(styles)
        self.things, _ = openmoji()
        self.sprites_by_style = {style: sprites_in(style) for style in self.styles}
        self.sprites = self.sprites_by_style[self.styles[0]]
        self.size = len(self.things) * len(self.kinds) if size is None else size

    def __len__(self) -> int:
        return self.size

    def thing_index(self, index: int) -> int:
        """Choose the thing that a sample shows: each thing once, in a random order, before any is shown again.

        Args:
            index (int): The index of the sample.

        Returns:
            The position of the thing in ``things``.
        """
        turn, place_in_turn = divmod(index // len(self.kinds), len(self.things))
        return _order(f"names-order-{self.seed}-{self.split}-{turn}", len(self.things))[place_in_turn]

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, self.size)
        rng = random.Random(f"names-{self.seed}-{self.split}-{index}")
        number = self.thing_index(index)
        name = self.things[number].name
        image = canvas(rng.choice(list(COLOURS)), rng)
        size = rng.uniform(0.45, 0.98) * CANVAS
        room = (CANVAS - size) / 2 + 4  # up to four pixels of the pictogram may leave the canvas
        centre = (CANVAS / 2 + rng.uniform(-room, room), CANVAS / 2 + rng.uniform(-room, room))
        style = choose_style(self.styles, f"names-{self.seed}-{self.split}-{index}")
        place(image, self.sprites_by_style[style][number], centre, size, rng, tilt=25)
        kind = self.kinds[index % len(self.kinds)]
        if kind == "caption":
            texts = text_fields(NAME_PROMPT, name)
        else:
            others = rng.sample(range(len(self.things)), CHOICES)
            choices = [self.things[i].name for i in others if i != number][: CHOICES - 1]
            choices.insert(rng.randrange(CHOICES), name)
            texts = text_fields(choice_prompt(choices), name, choices=choices)
        return Sample(id=f"names-{self.split}-{index}", image=image, kind=kind, **texts)  # type: ignore[typeddict-item]


@lru_cache(maxsize=64)
def _order(seed: str, number: int) -> list[int]:
    """Shuffle the numbers below ``number``."""
    order = list(range(number))
    random.Random(seed).shuffle(order)
    return order
