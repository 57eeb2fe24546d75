"""What can truly be said and asked of two pictures: a caption and three kinds of questions that compare them.

caption  := "first" phrase ", then" phrase
phrase   := "a" | "an" | "two" | "three" | "four"  thing
"""

from typing import Any

from .pair import Pair
from .scene_grammar import phrase, plural

KINDS = ("caption", "same", "more", "which")
LAYOUT = "First picture: <image>\nSecond picture: <image>\n"
SIDES = ("the first", "the second")


def ask(pair: Pair, kind: str, side: int) -> dict[str, Any]:
    """Prompt, answer, references (and choices) of one sample.

    Args:
        pair: for "more" two different numbers of the same thing, for "which" two things.
        kind: one of ``KINDS``.
        side: the picture (0 or 1) that "which" asks for.
    """
    one, other = pair.groups
    if kind == "caption":
        return _texts("The pictures show", f"first {phrase(one)}, then {phrase(other)}")
    if kind == "same":
        answer = "yes" if one.thing == other.thing else "no"
        return _texts("Is the same thing in both pictures?", answer, ["yes", "no"])
    if kind == "more":
        answer = SIDES[one.number < other.number]
        return _texts(f"Which picture has more {plural(one.name)}: the first or the second?", answer, [*SIDES])
    if kind == "which":
        question = f"Which picture shows {phrase(pair.groups[side])}: the first or the second?"
        return _texts(question, SIDES[side], [*SIDES])
    raise ValueError(f"unknown kind {kind!r}; the pairs data set has {list(KINDS)}")


def _texts(question: str, answer: str, choices: list[str] | None = None) -> dict[str, Any]:
    result: dict[str, Any] = {"prompt": LAYOUT + question, "answer": f" {answer}", "references": [answer]}
    return result if choices is None else result | {"choices": choices}
