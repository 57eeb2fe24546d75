"""What can truly be said and asked of a scene: captions and four kinds of questions.

    caption  := phrase [relation phrase] "on" colour
    phrase   := "a" | "an" | "two" | "three" | "four"  thing
    relation := "left of" | "right of" | "above" | "below"

A scene of two kinds has two true captions (seen from either side); both are references, and training draws one.
"""

import random
from functools import cache
from typing import Any

from .openmoji import need
from .sample import CAPTION_PROMPT, CHOICES, choice_prompt
from .scene import RELATIONS, THINGS, Group, Scene

KINDS = ("caption", "presence", "count", "relation", "choice")
NUMBER_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
DIRECTIONS = {"left of": "left", "right of": "right", "above": "above", "below": "below"}


@cache
def _inflect():
    return need("inflect").engine()


@cache
def plural(name: str) -> str:
    """``fox`` -> ``foxes``."""
    return _inflect().plural_noun(name)


@cache
def singular(name: str) -> str:
    """``fox`` -> ``a fox``."""
    return _inflect().a(name)


def phrase(group: Group) -> str:
    """``a fox``, ``three foxes``."""
    return singular(group.name) if group.number == 1 else f"{NUMBER_WORDS[group.number]} {plural(group.name)}"


def captions(scene: Scene) -> list[str]:
    """Every true caption of the scene."""
    if scene.relation is None:
        return [f"{phrase(scene.groups[0])} on {scene.colour}"]
    first, second = (phrase(group) for group in scene.groups)
    return [
        f"{first} {scene.relation} {second} on {scene.colour}",
        f"{second} {RELATIONS[scene.relation]} {first} on {scene.colour}",
    ]


def ask(scene: Scene, kind: str, rng: random.Random) -> dict[str, Any]:
    """Prompt, answer, references (and choices) of one sample about ``scene``."""
    present = {group.thing for group in scene.groups}
    if kind == "caption":
        references = captions(scene)
        return _pair(CAPTION_PROMPT, rng.choice(references), references)
    if kind == "presence":
        answer = rng.random() < 0.5
        thing = rng.choice(sorted(present)) if answer else _absent(present, rng, 1)[0]
        return _pair(f"Is there {singular(THINGS[thing])}?", "yes" if answer else "no")
    if kind == "count":
        group = rng.choice(scene.groups)
        return _pair(f"How many {plural(group.name)} are there?", NUMBER_WORDS[group.number])
    if kind == "relation":
        one, other = (0, 1) if rng.random() < 0.5 else (1, 0)
        assert scene.relation is not None  # the data set asks this of pictures of two kinds only
        relation = scene.relation if one == 0 else RELATIONS[scene.relation]
        names = [g.name if g.number == 1 else plural(g.name) for g in (scene.groups[one], scene.groups[other])]
        verb = "is" if scene.groups[one].number == 1 else "are"
        return _pair(f"Where {verb} the {names[0]}, seen from the {names[1]}?", DIRECTIONS[relation])
    if kind == "choice":
        answer_name = THINGS[rng.choice(sorted(present))]
        choices = [THINGS[i] for i in _absent(present, rng, CHOICES - 1)]
        choices.insert(rng.randrange(CHOICES), answer_name)
        return _pair(choice_prompt(choices), answer_name) | {"choices": choices}
    raise ValueError(f"unknown kind {kind!r}; the scenes data set has {list(KINDS)}")


def _absent(present: set[int], rng: random.Random, number: int) -> list[int]:
    drawn = rng.sample(range(len(THINGS)), number + len(present))
    return [thing for thing in drawn if thing not in present][:number]


def _pair(prompt: str, answer: str, references: list[str] | None = None) -> dict[str, Any]:
    return {"prompt": prompt, "answer": f" {answer}", "references": references or [answer]}
