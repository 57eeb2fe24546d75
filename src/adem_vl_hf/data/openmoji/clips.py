"""Draws OpenMoji *videos*: short clips of one event on a coloured canvas, with captions and questions.

In a clip, one thing moves, grows or shrinks, turns, or is replaced by another thing. Every event has an opposite, and a
clip played backwards is a clip of the opposite event. So only the order of the frames tells which of the two it is.

The test split is held out by *combinations*: a thing with an event and its opposite, and for replacements pairs of
things (those that the scenes hold out). Every thing, event and colour is seen in training.

In reading order: the truth about a clip and the split that it belongs to, its drawing, its texts, and the data set.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from ..indexing import from_start
from ..sample import Sample
from .common import DEFAULT_SIZE, check_arguments, text_fields
from .drawing import CANVAS, COLOURS, canvas, place_whole
from .scenes import Group
from .scenes import is_held_out as is_pair_held_out
from .sprites import sprites_of
from .things import THINGS, singular

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

# things that look much the same after some turn, or are so round or so slim that a turn of 15 degrees hardly shows
NOT_TURNED = frozenset(
    "basketball cookie lemon door tomato carrot ant hammer bomb potato strawberry violin star doughnut sunflower "
    "spider pencil airplane snail pear watermelon onion coconut rose lollipop croissant pizza pretzel".split()
)
TURNED = tuple(thing for thing, name in enumerate(THINGS) if name not in NOT_TURNED)

KINDS = ("caption", "order", "presence", "what")
FORMS = ("two-way", "yes-no")  # "order" asks for one of two events, or whether the event is the one that it names
VIDEO_PROMPT = "In the video,"  # the prompt of a caption
# event -> (in a caption, in a question after "does", as one of two in a question and as the answer to it)
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
# The families that "what" asks about, in turn. The two families of moving have one answer, so they alternate.
WHAT = ("horizontal", "size", "angle", "replacement", "vertical", "size", "angle", "replacement")


@dataclass(frozen=True)
class Clip:
    """Describes what one video shows.

    Args:
        event (str): A key of ``FAMILY``.
        things (tuple[int, ...]): The thing as its position in ``THINGS``. For a replacement, the earlier thing and the
            later one.
        colour (str): The colour of the canvas, a key of ``COLOURS``.
    """

    event: str
    things: tuple[int, ...]
    colour: str

    @property
    def family(self) -> str:
        """Return the family of the event, a key of ``FAMILIES``."""
        return FAMILY[self.event]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the things."""
        return tuple(THINGS[thing] for thing in self.things)


def opposite(clip: Clip) -> Clip:
    """Describe a clip played backwards.

    Args:
        clip (Clip): The clip.

    Returns:
        The clip of the opposite event.
    """
    one, other = FAMILIES[clip.family]
    return replace(clip, event=other if clip.event == one else one, things=clip.things[::-1])


def is_held_out(family: str, things: tuple[int, ...]) -> bool:
    """Tell whether a combination of things and events belongs to the test split.

    This depends on the combination alone and not on any seed.

    Args:
        family (str): The family of the event, a key of ``FAMILIES``.
        things (tuple[int, ...]): The thing, or the two things of a replacement, as positions in ``THINGS``.

    Returns:
        Whether it belongs to the test split.
    """
    if len(things) == 2:
        return is_pair_held_out([Group(thing, 1) for thing in things])
    return crc32(f"{THINGS[things[0]]} {family}".encode()) % 100 < HELD_OUT


def random_clip(rng: random.Random, split: str, family: str, forward: bool) -> Clip:
    """Make a random clip of a split and a family of events.

    Args:
        rng (random.Random): The source of the choice.
        split (str): "train" or "test".
        family (str): A key of ``FAMILIES``.
        forward (bool): Whether it is the first event of the family. For a replacement: whether the thing with the lower
            position in ``THINGS`` comes first.

    Returns:
        The clip.
    """
    colour = rng.choice(list(COLOURS))
    pool = TURNED if family == "angle" else range(len(THINGS))
    while True:
        things = tuple(sorted(rng.sample(pool, 2 if family == "replacement" else 1)))
        if is_held_out(family, things) == (split == "test"):
            clip = Clip(FAMILIES[family][0], things, colour)
            return clip if forward else opposite(clip)


def draw_clip(clip: Clip, sprites: dict[str, np.ndarray], rng: random.Random, frames: int) -> list[Image.Image]:
    """Draw the frames of a clip.

    With the generator in the same state, the frames of ``opposite(clip)`` are those of ``clip`` in reverse.

    Args:
        clip (Clip): The clip.
        sprites (dict[str, np.ndarray]): The RGBA pixels [h, w, 4] of each thing by its name, uint8.
        rng (random.Random): The source of sizes, angles and positions.
        frames (int): The number of frames, at least 2.

    Returns:
        The frames in order, images of ``CANVAS`` x ``CANVAS`` pixels in mode RGB.
    """
    forward = clip.event == FAMILIES[clip.family][0] and list(clip.things) == sorted(clip.things)
    first = clip if forward else opposite(clip)
    background = canvas(first.colour, rng)
    path = _path(first.family, rng, frames)
    replaced_at = frames // 2 + (rng.choice((-1, 0, 1)) if frames > 3 else 0)  # the first frame with the other thing
    video = []
    for number, (centre, size, angle) in enumerate(path):
        frame = background.copy()
        name = first.names[-1] if number >= replaced_at else first.names[0]
        place_whole(frame, sprites[name], centre, size, angle)
        video.append(frame)
    return video if forward else video[::-1]


def _path(family: str, rng: random.Random, frames: int) -> list[tuple[tuple[float, float], float, float]]:
    """Choose centre, size (pixels) and angle (degrees, anticlockwise) of the thing in each frame of the first event.

    A path leads from one edge of the canvas to its middle or from the middle to the other edge, and a size changes from
    small to medium or from medium to large. So half of the clips begin as half of their opposites do, in the middle or
    at medium size. An angle begins anywhere.
    """
    shares = [number / (frames - 1) for number in range(frames)]
    tilt = rng.uniform(-10, 10)
    middle = CANVAS / 2
    if family in ("horizontal", "vertical"):
        size = rng.uniform(32, 40)
        edge = size * 0.48  # a little less than half, because pictograms have a margin of their own
        ends = [edge, middle, CANVAS - edge]
        start, end = rng.choice((ends[:2], ends[1:]))
        start, end = (max(edge, min(CANVAS - edge, point + rng.uniform(-3, 3))) for point in (start, end))
        across = rng.uniform(edge, CANVAS - edge)
        along = [start + (end - start) * share for share in shares]
        return [((x, across) if family == "horizontal" else (across, x), size, tilt) for x in along]
    if family == "size":
        small, large = (size * rng.uniform(0.93, 1.07) for size in rng.choice(((28, 46), (46, 76))))
        centre = _centre(large, rng)
        return [(centre, small * (large / small) ** share, tilt) for share in shares]
    if family == "angle":
        size = rng.uniform(46, 62)
        centre, start, turn = _centre(size * 1.2, rng), rng.uniform(0, 360), rng.uniform(100, 170)
        return [(centre, size, start - turn * share) for share in shares]
    size = rng.uniform(40, 62)
    return [(_centre(size, rng), size, tilt)] * frames


def _centre(size: float, rng: random.Random) -> tuple[float, float]:
    """Choose a centre near the middle of the canvas such that a thing of this size stays on it."""
    room = min(16.0, max(0.0, (CANVAS - size) / 2 - 1))
    return CANVAS / 2 + rng.uniform(-room, room), CANVAS / 2 + rng.uniform(-room, room)


def caption(clip: Clip) -> str:
    """Describe a clip: "a cow moves to the left on a blue background".

    Args:
        clip (Clip): The clip.

    Returns:
        The caption.
    """
    return f"{singular(clip.names[0])} {_happening(clip, 0)} on {singular(clip.colour)} background"


def ask_order(clip: Clip, form: str, yes: bool, rng: random.Random) -> dict[str, Any]:
    """Ask a question to which the opposite clip has another answer.

    Args:
        clip (Clip): The clip.
        form (str): One of ``FORMS``.
        yes (bool): The answer of the form "yes-no".
        rng (random.Random): The source of the order of the two events in the form "two-way".

    Returns:
        The fields ``prompt``, ``answer``, ``references`` and ``choices``.
    """
    if form == "yes-no":
        asked = clip if yes else opposite(clip)
        return _yes_no(f"Does the {asked.names[0]} {_happening(asked, 1)}?", yes)
    both = (clip, opposite(clip))
    words = [f"the {one.names[0]}" if clip.family == "replacement" else WORDS[one.event][2] for one in both]
    answer = words[0]
    words.sort()  # so that the opposite clip, with the generator in the same state, is asked in the same words
    rng.shuffle(words)
    return text_fields(TWO_WAYS[clip.family].format(*words, thing=clip.names[0]), answer, choices=words)


def _ask_presence(thing: int, yes: bool) -> dict[str, Any]:
    """Ask whether a thing is in the video."""
    return _yes_no(f"Is there {singular(THINGS[thing])} in the video?", yes)


def _ask_what(clip: Clip) -> dict[str, Any]:
    """Ask for the family of the event, which does not depend on the order of the frames."""
    choices = list(dict.fromkeys(HAPPENS.values()))
    return text_fields("What happens in the video?", HAPPENS[clip.family], choices=choices)


def _happening(clip: Clip, column: int) -> str:
    """Put the event into words, in one of the columns of ``WORDS``."""
    if clip.family == "replacement":
        return f"{('becomes', 'become')[column]} {singular(clip.names[1])}"
    return WORDS[clip.event][column]


def _yes_no(prompt: str, yes: bool) -> dict[str, Any]:
    return text_fields(prompt, "yes" if yes else "no", choices=["yes", "no"])


class OpenMojiVideos(Dataset[Sample]):
    """Draws clips as lists of frames in ``video``, with captions and questions.

    Answers are balanced exactly and not by chance. Samples of kind "order" come in pairs: a clip and then the same
    frames backwards, with one question and opposite answers. All that such a pair teaches is the order of the frames.
    Of any 20 consecutive samples of this kind, four ask about each family of events, half of them for one of two events
    and half for yes or no. The same holds for "presence" (of 10) and "what" (of 8). Everything else is drawn at random.

    Args:
        split (str): "train" or "test". A thing with an event or its opposite is in one of them only.
        size (int): The number of samples.
        seed (int): The seed. All randomness follows from ``(seed, split, index)``.
        kinds (Sequence[str]): The kinds asked, in turn: "caption", "order" (to which the opposite clip has another
            answer), "presence" and "what" (to which it has the same answer). A kind that is named twice is asked twice
            as often.
        frames (int): The number of frames of every clip, at least 2.

    Raises:
        ValueError: An argument has none of these values.
        ImportError: A package of the extra ``demo`` is not installed.
    """

    def __init__(
        self,
        split: str = "train",
        size: int = DEFAULT_SIZE,
        seed: int = 0,
        kinds: Sequence[str] = KINDS,
        frames: int = 8,
    ) -> None:
        check_arguments("videos", split, size, kinds, KINDS)
        if frames < 2:
            raise ValueError(f"frames must be at least 2, got {frames}: nothing happens in a single one")
        self.split, self.size, self.seed, self.kinds, self.frames = split, size, seed, tuple(kinds), frames
        self.sprites = sprites_of(THINGS)

    def __len__(self) -> int:
        return self.size

    def clip(self, index: int) -> tuple[Clip, str, dict[str, Any], random.Random]:
        """Choose the clip of a sample and the question about it.

        Args:
            index (int): The index of the sample.

        Returns:
            The clip, the kind, the text fields of the sample, and the generator that ``draw_clip`` goes on with.

        Raises:
            IndexError: There is no such sample.
        """
        index = from_start(index, self.size)
        turn, position = divmod(index, len(self.kinds))
        kind = self.kinds[position]
        if kind == "order":
            return self._order(index, turn)
        rng = random.Random(f"videos-{self.seed}-{self.split}-{index}")
        if kind == "what":
            clip = random_clip(rng, self.split, WHAT[turn % len(WHAT)], rng.random() < 0.5)
            return clip, kind, _ask_what(clip), rng
        turn, position = divmod(turn, len(FAMILIES))
        family = list(FAMILIES)[position]
        turn, answer = divmod(turn, 2)
        if kind == "caption":
            clip = random_clip(rng, self.split, family, bool(answer))
            return clip, kind, text_fields(VIDEO_PROMPT, caption(clip)), rng
        clip = random_clip(rng, self.split, family, rng.random() < 0.5)
        asked = clip
        while not answer and set(asked.things) & set(clip.things):
            asked = random_clip(rng, self.split, family, True)  # so that the thing is one that the family could show
        return clip, kind, _ask_presence(rng.choice(asked.things), bool(answer)), rng

    def _order(self, index: int, turn: int) -> tuple[Clip, str, dict[str, Any], random.Random]:
        """Choose the clip and the question of a sample of kind "order"."""
        pair, backwards = divmod(turn, 2)
        first = index - backwards * len(self.kinds)  # both samples of a pair are drawn from the seed of the first
        rng = random.Random(f"videos-{self.seed}-{self.split}-{first}")
        form, position = divmod(pair, len(FAMILIES))
        clip = random_clip(rng, self.split, list(FAMILIES)[position], rng.random() < 0.5)
        yes = (rng.random() < 0.5) != bool(backwards)
        clip = opposite(clip) if backwards else clip
        return clip, "order", ask_order(clip, FORMS[form % len(FORMS)], yes, rng), rng

    def __getitem__(self, index: int) -> Sample:
        index = from_start(index, self.size)
        clip, kind, texts, rng = self.clip(index)
        video = draw_clip(clip, self.sprites, rng, self.frames)
        return Sample(id=f"videos-{self.split}-{index}", image=None, video=video, kind=kind, **texts)  # type: ignore[typeddict-item]
