"""OpenMoji *names*: one plain emoji per picture, drawn at random; what is it called?

Training and test show the same things; what differs is the drawing (size, tilt, place, background), whose random
numbers are never shared between the splits.
"""

import random
from collections.abc import Sequence
from functools import lru_cache

from torch.utils.data import Dataset

from ..sample import CAPTION_PROMPT, CHOICES, Sample, check_arguments, choice_prompt
from .drawing import CANVAS, COLOURS, canvas, place
from .sprites import openmoji

KINDS = ("caption", "choice")


@lru_cache(maxsize=64)
def _order(seed: str, number: int) -> list[int]:
    order = list(range(number))
    random.Random(seed).shuffle(order)
    return order


class OpenMojiNames(Dataset):
    """Names under random rendering.

    Args:
        split: ``"train"`` or ``"test"``: the same things, never the same drawing.
        size: number of samples; ``None`` = every thing once per kind.
        seed: all randomness follows from ``(seed, split, index)``.
        kinds: the kinds asked, in turn: ``"caption"`` (say its name) and ``"choice"`` (which of four names).
    """

    def __init__(
        self, split: str = "train", size: int | None = None, seed: int = 0, kinds: Sequence[str] = KINDS
    ) -> None:
        check_arguments("names", split, size, kinds, KINDS)
        self.split, self.seed, self.kinds = split, seed, tuple(kinds)
        self.things, self.sprites = openmoji()
        self.size = len(self.things) * len(self.kinds) if size is None else size

    def __len__(self) -> int:
        return self.size

    def thing_index(self, index: int) -> int:
        """Which thing sample ``index`` shows: every thing once, in a fresh order, before any comes again."""
        turn, place_in_turn = divmod(index // len(self.kinds), len(self.things))
        return _order(f"names-order-{self.seed}-{self.split}-{turn}", len(self.things))[place_in_turn]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"names-{self.seed}-{self.split}-{index}")
        number = self.thing_index(index)
        name = self.things[number].name
        picture = canvas(rng.choice(list(COLOURS)), rng)
        size = rng.uniform(0.45, 0.98) * CANVAS
        room = (CANVAS - size) / 2 + 4  # up to four pixels may leave the canvas
        centre = (CANVAS / 2 + rng.uniform(-room, room), CANVAS / 2 + rng.uniform(-room, room))
        place(picture, self.sprites[number], centre, size, rng, tilt=25)
        kind = self.kinds[index % len(self.kinds)]
        sample = Sample(
            id=f"names-{self.split}-{index}",
            image=picture,
            prompt=CAPTION_PROMPT,
            answer=f" {name}",
            references=[name],
            kind=kind,
        )
        if kind == "choice":
            others = rng.sample(range(len(self.things)), CHOICES)
            choices = [self.things[i].name for i in others if i != number][: CHOICES - 1]
            choices.insert(rng.randrange(CHOICES), name)
            sample |= {"prompt": choice_prompt(choices), "choices": choices}
        return sample
