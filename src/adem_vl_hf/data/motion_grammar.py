"""What can truly be said and asked of a clip: a caption and three kinds of questions.

    caption  := a thing  event  "on" a colour "background"
    event    := "moves to the left" | "moves to the right" | "moves up" | "moves down" | "grows" | "shrinks"
              | "turns clockwise" | "turns anticlockwise" | "becomes" a thing

"presence" can be answered from one frame, "what" from all frames in any order, "order" from their order alone.
"""

import random
from typing import Any

from .motion import Clip, opposite
from .scene import THINGS
from .scene_grammar import singular

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
