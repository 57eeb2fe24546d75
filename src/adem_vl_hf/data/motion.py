"""The truth behind an OpenMoji *video*, which ones are held out for testing, and how one is drawn.

A clip shows one thing on a coloured canvas, and one event: the thing moves, grows or shrinks, turns, or another thing
takes its place. Every event has an opposite, and a clip played backwards is the clip of the opposite event: which of
the two it is, is in the order of the frames alone.

What is held out for the test split are *combinations*: a thing with an event and its opposite, and pairs of things for
replacements (those pairs that the scenes hold out). Every thing, event and colour is seen in training.
"""

import random
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from PIL import Image

from .drawing import CANVAS, COLOURS, canvas, paste
from .scene import THINGS, Group
from .scene import is_held_out as is_pair_held_out

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
