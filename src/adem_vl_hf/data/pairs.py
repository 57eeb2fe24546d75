"""OpenMoji *pairs* as a data set: two pictures a sample, and texts that compare them, whose truth is exact."""

import random
from collections.abc import Sequence

from torch.utils.data import Dataset

from .openmoji import sprites_of
from .pair import Pair, draw_pair, random_pair, swapped
from .pair_grammar import KINDS, ask
from .sample import Sample, check_arguments
from .scene import THINGS


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
