"""The truth behind an OpenMoji *video*, which ones are held out for testing, and how one is drawn.

A clip shows one thing on a coloured canvas, and one event: the thing moves, grows or shrinks, turns, or another thing
takes its place. Every event has an opposite, and a clip played backwards is the clip of the opposite event: which of
the two it is, is in the order of the frames alone.

What is held out for the test split are *combinations*: a thing with an event and its opposite, and pairs of things for
replacements (those pairs that the scenes hold out). Every thing, event and colour is seen in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..sample import Sample, check_arguments
from .drawing import CANVAS, COLOURS, canvas, paste
from .scenes import THINGS, Group, singular
from .scenes import is_held_out as is_pair_held_out
from .sprites import sprites_of

# family -> (event, its opposite); the frames of the second are those of the first, played backwards
FAMILIES = {
    "horizontal": ("moves right", "moves left"),
    "vertical": ("moves down", "moves up"),
    "size": ("grows", "shrinks"),
    "angle": ("turns clockwise", "turns anticlockwise"),
    "replacement": ("becomes", "becomes"),
}
FAMILY = {event: family for family, events in FAMILIES.items() for event in events}
HELD_OUT = 15  # per cent of the combinations of a thing and a family

# looks much the same after some turn, or is so round or so slim that 15 degrees more or less hardly show
NOT_TURNED = frozenset(
    "basketball cookie lemon door tomato carrot ant hammer bomb potato strawberry violin star doughnut sunflower "
    "spider pencil airplane snail pear watermelon onion coconut rose lollipop croissant pizza pretzel".split()
)
TURNED = tuple(thing for thing, name in enumerate(THINGS) if name not in NOT_TURNED)


@dataclass(frozen=True)
class Clip:
    """The truth about one video; ``things`` index THINGS: one, or of a replacement the earlier and the later."""

    event: str
    things: tuple[int, ...]
    colour: str

    @property
    def family(self) -> str:
        return FAMILY[self.event]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(THINGS[thing] for thing in self.things)


def opposite(clip: Clip) -> Clip:
    """The truth about the clip played backwards."""
    one, other = FAMILIES[clip.family]
    return replace(clip, event=other if clip.event == one else one, things=clip.things[::-1])


def is_held_out(family: str, things: tuple[int, ...]) -> bool:
    """Whether this combination belongs to the test split. Depends on what is combined alone, not on any seed."""
    if len(things) == 2:
        return is_pair_held_out([Group(thing, 1) for thing in things])
    return crc32(f"{THINGS[things[0]]} {family}".encode()) % 100 < HELD_OUT


def random_clip(rng: random.Random, split: str, family: str, forward: bool) -> Clip:
    """A clip of the given split and family: of its first event if ``forward`` (of a replacement: lower index first)."""
    colour = rng.choice(list(COLOURS))
    pool = TURNED if family == "angle" else range(len(THINGS))
    while True:
        things = tuple(sorted(rng.sample(pool, 2 if family == "replacement" else 1)))
        if is_held_out(family, things) == (split == "test"):
            clip = Clip(FAMILIES[family][0], things, colour)
            return clip if forward else opposite(clip)


def draw_clip(clip: Clip, sprites: dict[str, np.ndarray], rng: random.Random, frames: int) -> list[Image.Image]:
    """The frames in order, each [CANVAS x CANVAS] RGB; ``sprites`` maps a thing's name to its pixels.

    With the generator in the same state, the frames of ``opposite(clip)`` are these in reverse.
    """
    forward = clip.event == FAMILIES[clip.family][0] and list(clip.things) == sorted(clip.things)
    first = clip if forward else opposite(clip)
    background = canvas(first.colour, rng)
    path = _path(first.family, rng, frames)
    late = frames // 2 + (rng.choice((-1, 0, 1)) if frames > 3 else 0)  # where another thing takes the place
    video = []
    for number, (centre, size, angle) in enumerate(path):
        picture = background.copy()
        name = first.names[-1] if number >= late else first.names[0]
        paste(picture, sprites[name], centre, size, angle)
        video.append(picture)
    return video if forward else video[::-1]


def _path(family: str, rng: random.Random, frames: int) -> list[tuple[tuple[float, float], float, float]]:
    """Centre, size (pixels) and angle (degrees, anticlockwise) of the thing in each frame of a family's first event.

    A way leads from the canvas's edge to its middle or on from there to the other edge, and a size from small to medium
    or from medium to large. So half of the clips begin as half of their opposites do, in the middle, and an angle
    begins anywhere.
    """
    shares = [number / (frames - 1) for number in range(frames)]
    tilt = rng.uniform(-10, 10)
    middle = CANVAS / 2
    if family in ("horizontal", "vertical"):
        size = rng.uniform(32, 40)
        edge = size * 0.48  # the pictures have a margin of their own
        ends = [edge, middle, CANVAS - edge]
        start, end = rng.choice((ends[:2], ends[1:]))
        start, end = (max(edge, min(CANVAS - edge, spot + rng.uniform(-3, 3))) for spot in (start, end))
        across = rng.uniform(edge, CANVAS - edge)
        way = [start + (end - start) * share for share in shares]
        return [((x, across) if family == "horizontal" else (across, x), size, tilt) for x in way]
    if family == "size":
        small, large = (size * rng.uniform(0.93, 1.07) for size in rng.choice(((28, 46), (46, 76))))
        centre = _spot(large, rng)
        return [(centre, small * (large / small) ** share, tilt) for share in shares]
    if family == "angle":
        size = rng.uniform(46, 62)
        centre, start, turn = _spot(size * 1.2, rng), rng.uniform(0, 360), rng.uniform(100, 170)
        return [(centre, size, start - turn * share) for share in shares]
    size = rng.uniform(40, 62)
    return [(_spot(size, rng), size, tilt)] * frames


def _spot(size: float, rng: random.Random) -> tuple[float, float]:
    """A centre not far from the canvas's, such that something of this size stays on it."""
    room = min(16.0, max(0.0, (CANVAS - size) / 2 - 1))
    return CANVAS / 2 + rng.uniform(-room, room), CANVAS / 2 + rng.uniform(-room, room)


KINDS = ("caption", "order", "presence", "what")
FORMS = ("two-way", "yes-no")  # how "order" asks: one of two directions, or whether it is the one it names
CAPTION_PROMPT = "In the video,"
# event -> (in a caption, in a question after "does", as one of two in a question and as its answer)
WORDS = {
    "moves left": ("moves to the left", "move to the left", "left"),
    "moves right": ("moves to the right", "move to the right", "right"),
    "moves up": ("moves up", "move up", "up"),
    "moves down": ("moves down", "move down", "down"),
    "grows": ("grows", "grow", "grow"),
    "shrinks": ("shrinks", "shrink", "shrink"),
    "turns clockwise": ("turns clockwise", "turn clockwise", "clockwise"),
    "turns anticlockwise": ("turns anticlockwise", "turn anticlockwise", "anticlockwise"),
}
TWO_WAYS = {
    "horizontal": "Does the {thing} move {0} or {1}?",
    "vertical": "Does the {thing} move {0} or {1}?",
    "size": "Does the {thing} {0} or {1}?",
    "angle": "Does the {thing} turn {0} or {1}?",
    "replacement": "Which comes first: {0} or {1}?",
}
HAPPENS = {
    "horizontal": "something moves",
    "vertical": "something moves",
    "size": "something changes its size",
    "angle": "something turns",
    "replacement": "something is replaced",
}


def caption(clip: Clip) -> str:
    """``a cow moves to the left on a blue background``."""
    return f"{singular(clip.names[0])} {_happening(clip, 0)} on {singular(clip.colour)} background"


def ask_caption(clip: Clip) -> dict[str, Any]:
    """Prompt, answer and references of a caption."""
    return _pair(CAPTION_PROMPT, caption(clip))


def ask_order(clip: Clip, form: str, yes: bool, rng: random.Random) -> dict[str, Any]:
    """A question that the opposite clip answers otherwise. ``yes`` is the answer of form "yes-no"."""
    if form == "yes-no":
        asked = clip if yes else opposite(clip)
        return _yes_no(f"Does the {asked.names[0]} {_happening(asked, 1)}?", yes)
    both = (clip, opposite(clip))
    words = [f"the {one.names[0]}" if clip.family == "replacement" else WORDS[one.event][2] for one in both]
    answer = words[0]
    words.sort()  # the opposite clip, with the generator in the same state, is asked in the same words
    rng.shuffle(words)
    return _pair(TWO_WAYS[clip.family].format(*words, thing=clip.names[0]), answer, words)


def ask_presence(thing: int, yes: bool) -> dict[str, Any]:
    """Whether there is ``thing``, which is in the clip if ``yes``."""
    return _yes_no(f"Is there {singular(THINGS[thing])} in the video?", yes)


def ask_what(clip: Clip) -> dict[str, Any]:
    """Which family the event is of; the order of the frames does not matter."""
    return _pair("What happens in the video?", HAPPENS[clip.family], list(dict.fromkeys(HAPPENS.values())))


def _happening(clip: Clip, column: int) -> str:
    if clip.family == "replacement":
        return f"{('becomes', 'become')[column]} {singular(clip.names[1])}"
    return WORDS[clip.event][column]


def _yes_no(prompt: str, yes: bool) -> dict[str, Any]:
    return _pair(prompt, "yes" if yes else "no", ["yes", "no"])


def _pair(prompt: str, answer: str, choices: list[str] | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {"prompt": prompt, "answer": f" {answer}", "references": [answer]}
    return result if choices is None else result | {"choices": choices}


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
