"""OpenMoji *videos* as a data set: short clips with captions and questions whose truth is exact."""

import random
from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from .motion import FAMILIES, Clip, draw_clip, opposite, random_clip
from .motion_grammar import FORMS, KINDS, ask_caption, ask_order, ask_presence, ask_what
from .openmoji import sprites_of
from .sample import Sample, check_arguments
from .scene import THINGS

# moving has two families and one answer to "what": its families take turns
WHAT = ("horizontal", "size", "angle", "replacement", "vertical", "size", "angle", "replacement")


class OpenMojiVideos(Dataset[Sample]):
    """Clips with captions and questions (the grammar is in ``motion_grammar``); the frames are in ``video``.

    Answers are balanced exactly and not by chance: samples of kind "order" come in pairs, a clip and then the same
    frames backwards, with one question and opposite answers (all that such a pair teaches is the order); of any 20
    consecutive ones four ask about each family of events, half of them for one of two directions and half for yes or
    no. Likewise "presence" (of 10) and "what" (of 8). Everything else is drawn.

    Args:
        split: ``"train"`` or ``"test"``; no thing does the same, or the opposite, in both.
        size: number of samples.
        seed: all randomness follows from ``(seed, split, index)``.
        kinds: the kinds asked, in turn: ``"caption"``, ``"order"`` (the opposite clip has the other answer),
            ``"presence"`` and ``"what"`` (it has the same). Name one twice to have it twice as often.
        frames: of every clip, at least 2.
    """

    def __init__(
        self, split: str = "train", size: int = 20_000, seed: int = 0, kinds: Sequence[str] = KINDS, frames: int = 8
    ) -> None:
        check_arguments("videos", split, size, kinds, KINDS)
        if frames < 2:
            raise ValueError(f"frames must be at least 2, got {frames}: nothing happens in a single one")
        self.split, self.size, self.seed, self.kinds, self.frames = split, size, seed, tuple(kinds), frames
        self.sprites = sprites_of(THINGS)

    def __len__(self) -> int:
        return self.size

    def clip(self, index: int) -> tuple[Clip, str, dict[str, Any], random.Random]:
        """The truth of sample ``index``, the kind asked, the texts, and the generator that goes on to draw."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        turn, place = divmod(index, len(self.kinds))
        kind = self.kinds[place]
        if kind == "order":
            return self._order(index, turn)
        rng = random.Random(f"videos-{self.seed}-{self.split}-{index}")
        if kind == "what":
            clip = random_clip(rng, self.split, WHAT[turn % len(WHAT)], rng.random() < 0.5)
            return clip, kind, ask_what(clip), rng
        turn, place = divmod(turn, len(FAMILIES))
        family = list(FAMILIES)[place]
        turn, answer = divmod(turn, 2)
        if kind == "caption":
            clip = random_clip(rng, self.split, family, bool(answer))
            return clip, kind, ask_caption(clip), rng
        clip = random_clip(rng, self.split, family, rng.random() < 0.5)
        asked = clip
        while not answer and set(asked.things) & set(clip.things):
            asked = random_clip(rng, self.split, family, True)  # things that the family could have shown
        return clip, kind, ask_presence(rng.choice(asked.things), bool(answer)), rng

    def _order(self, index: int, turn: int) -> tuple[Clip, str, dict[str, Any], random.Random]:
        pair, backwards = divmod(turn, 2)
        first = index - backwards * len(self.kinds)  # both are drawn as the first one is
        rng = random.Random(f"videos-{self.seed}-{self.split}-{first}")
        form, place = divmod(pair, len(FAMILIES))
        clip = random_clip(rng, self.split, list(FAMILIES)[place], rng.random() < 0.5)
        yes = (rng.random() < 0.5) != bool(backwards)
        clip = opposite(clip) if backwards else clip
        return clip, "order", ask_order(clip, FORMS[form % len(FORMS)], yes, rng), rng

    def __getitem__(self, index: int) -> Sample:
        clip, kind, texts, rng = self.clip(index)
        video = draw_clip(clip, self.sprites, rng, self.frames)
        return Sample(id=f"videos-{self.split}-{index}", image=None, video=video, kind=kind, **texts)  # type: ignore[typeddict-item]
