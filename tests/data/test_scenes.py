"""Scenes: the held-out combinations, texts that are true of the image, and images that show the scene."""

import random
import re
from collections import Counter

import numpy as np
import pytest
from PIL import ImageDraw

from adem_vl_hf.data import OpenMojiScenes
from adem_vl_hf.data.openmoji.drawing import COLOURS
from adem_vl_hf.data.openmoji.scenes import (
    NUMBERS,
    PAIR_NUMBERS,
    RELATIONS,
    Group,
    Scene,
    ask,
    captions,
    draw_scene,
)
from adem_vl_hf.data.openmoji.things import EVERY_THING, THINGS, plural, singular

NUMBER = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PHRASE = r"(a|an|two|three|four) ([a-z]+)"
CAPTION = re.compile(rf"{PHRASE}(?: (left of|right of|above|below) {PHRASE})? on ([a-z]+)")
NAMES = {name: i for i, name in enumerate(THINGS)} | {plural(name): i for i, name in enumerate(THINGS)}
IRREGULAR = {"wolf": "wolves", "fox": "foxes", "mouse": "mice", "butterfly": "butterflies", "church": "churches",
             "tomato": "tomatoes", "bus": "buses", "sandwich": "sandwiches", "key": "keys"}  # fmt: skip


def scenes(split, number, **arguments):
    data = OpenMojiScenes(split, size=number, **arguments)
    return [data.scene(i)[0] for i in range(number)]


def parse(caption):
    number, name, relation, other_number, other_name, colour = CAPTION.fullmatch(caption).groups()
    groups = [Group(NAMES[name], NUMBER[number])]
    if relation:
        groups.append(Group(NAMES[other_name], NUMBER[other_number]))
    return Scene(tuple(groups), relation, colour)


def mirrored(scene):
    return scene if scene.relation is None else Scene(scene.groups[::-1], OPPOSITE[scene.relation], scene.colour)


def combination(scene):
    """Return the combination that may be held out: the pair of things, or the one thing with its number."""
    if scene.relation is None:
        return scene.groups[0].thing, "times", scene.groups[0].number
    return frozenset(group.thing for group in scene.groups)


@pytest.fixture(scope="module")
def asked():
    """Return scenes with their samples by kind of question."""
    pairs = [scene for scene in scenes("test", 1200) if scene.relation]
    kinds = ("presence", "count", "relation", "choice")
    return {kind: [(s, ask(s, kind, random.Random(f"{kind}-{i}"))) for i, s in enumerate(pairs)] for kind in kinds}


def test_no_combination_of_the_test_split_is_ever_in_training():
    train = [scene for seed in (0, 1) for scene in scenes("train", 3000, seed=seed)]
    test = [scene for seed in (0, 1) for scene in scenes("test", 1500, seed=seed)]
    seen, held_out = {combination(scene) for scene in train}, {combination(scene) for scene in test}
    assert len(seen) > 1500
    assert len(held_out) > 500
    assert not seen & held_out
    # every part of the combinations is seen in training
    groups = [group for scene in train for group in scene.groups]
    assert {group.thing for group in groups} == set(range(100))
    assert {group.number for group in groups} == set(NUMBERS)
    assert {scene.groups[0].number for scene in train if scene.relation is None} == set(NUMBERS)
    assert {scene.relation for scene in train} == {None, *RELATIONS}
    assert {scene.colour for scene in train} == set(COLOURS)
    assert {tuple(g.number for g in s.groups) for s in train if s.relation} == set(PAIR_NUMBERS)


def test_captions_say_exactly_the_scene_from_either_side():
    for scene in scenes("train", 500) + scenes("test", 500):
        read = [parse(caption) for caption in captions(scene)]
        assert read == ([scene] if scene.relation is None else [scene, mirrored(scene)])


def test_articles_and_plurals():
    vowels = "elephant octopus owl ant onion avocado ambulance airplane umbrella".split()
    assert {name for name in THINGS if singular(name) == f"an {name}"} == set(vowels)
    assert {name for name in THINGS if singular(name) == f"a {name}"} == set(THINGS) - set(vowels)
    assert (singular("orange"), singular("blue")) == ("an orange", "a blue")
    assert {name: plural(name) for name in IRREGULAR} == IRREGULAR
    # endings of which an "s" alone makes no English plural, with two exceptions
    endings = [name for name in THINGS if re.search(r"(s|x|ch|sh|f|[^aeiou][yo])$", name)]
    assert [name for name in endings if plural(name) == f"{name}s"] == ["avocado", "taco"]
    assert len({plural(name) for name in THINGS}) == 100
    assert not {plural(name) for name in THINGS} & set(THINGS)
    others = {"compass": "compasses", "battery": "batteries", "turkey": "turkeys", "goose": "geese", "radio": "radios",
              "volcano": "volcanoes", "toothbrush": "toothbrushes", "wine glass": "wine glasses"}  # fmt: skip
    assert {name: plural(name) for name in others} == others
    assert len({plural(name) for name in EVERY_THING} | set(EVERY_THING)) == 2 * len(EVERY_THING)


def test_more_things_are_shown_and_asked_about_and_what_is_held_out_stays_so():
    data = OpenMojiScenes("train", size=4000, things=len(EVERY_THING))
    found = [data.scene(i)[0] for i in range(4000)]
    shown = Counter(group.thing for scene in found for group in scene.groups)
    assert set(shown) == set(range(len(EVERY_THING)))
    assert not {combination(scene) for scene in found} & {combination(scene) for scene in scenes("test", 1500)}
    choices = OpenMojiScenes("train", size=300, kinds=("choice",), things=len(EVERY_THING))
    asked_about = {name for i in range(300) for name in choices[i]["choices"]}
    assert len(asked_about - set(THINGS)) > len(asked_about & set(THINGS)) > 0
    # without them nothing but the hundred comes up, whose samples are what they were
    assert set(OpenMojiScenes("train", size=1).sprites) == set(THINGS)


def test_few_things_are_shown_and_asked_about_and_what_is_held_out_stays_so():
    data = OpenMojiScenes("train", size=500, things=6)
    found = [data.scene(i)[0] for i in range(500)]
    assert {group.thing for scene in found for group in scene.groups} == set(range(6))
    choices = [sample["choices"] for sample in (data[i] for i in range(60)) if sample["kind"] == "choice"]
    assert choices
    assert all(set(named) <= set(THINGS[:6]) for named in choices)
    tested = OpenMojiScenes("test", size=50, things=6)
    assert not {combination(scene) for scene in found} & {combination(tested.scene(i)[0]) for i in range(50)}
    for things in (5, len(EVERY_THING) + 1):
        with pytest.raises(ValueError, match=f"things must be 6 to 382, got {things}"):
            OpenMojiScenes(things=things)


def test_no_number_tells_alike_groups_apart():
    data = OpenMojiScenes("train", size=300, kinds=("relation",), alike=True)
    numbers = Counter(tuple(group.number for group in data.scene(i)[0].groups) for i in range(300))
    assert set(numbers) == {(1, 1), (2, 2)}
    assert data[0]["prompt"].count(" the ") == 2


def test_a_caption_sample_has_both_captions_as_references():
    data = OpenMojiScenes("test", size=30, kinds=("caption",))
    said = set()
    for index in range(30):
        scene, _, _ = data.scene(index)
        sample = data[index]
        assert sample["prompt"] == "a picture of"
        assert sample["references"] == captions(scene)
        said.add(sample["references"].index(sample["answer"].removeprefix(" ")))
    assert said == {0, 1}


def test_presence_is_balanced_and_true(asked):
    answers = Counter()
    for scene, sample in asked["presence"]:
        name = re.fullmatch(r"Is there an? ([a-z]+)\?", sample["prompt"])[1]
        present = NAMES[name] in {group.thing for group in scene.groups}
        assert sample["answer"] == (" yes" if present else " no")
        assert sample["references"] == [sample["answer"].strip()]
        answers[sample["answer"]] += 1
    assert answers[" yes"] / answers.total() == pytest.approx(0.5, abs=0.06)


def test_counts_are_the_scene_s(asked):
    words = {1: " one", 2: " two", 3: " three", 4: " four"}
    asked_about = Counter()
    for scene, sample in asked["count"]:
        name = re.fullmatch(r"How many ([a-z]+) are there\?", sample["prompt"])[1]
        (group,) = [group for group in scene.groups if plural(group.name) == name]
        assert sample["answer"] == words[group.number]
        asked_about[scene.groups.index(group)] += 1
    assert asked_about[0] / asked_about.total() == pytest.approx(0.5, abs=0.06)


def test_relations_are_right_from_either_side(asked):
    sides = Counter()
    for scene, sample in asked["relation"]:
        verb, one, other = re.fullmatch(
            r"Where (is|are) the ([a-z]+), seen from the ([a-z]+)\?", sample["prompt"]
        ).groups()
        first, second = scene.groups
        from_second = NAMES[one] == first.thing
        assert {NAMES[one], NAMES[other]} == {first.thing, second.thing}
        assert verb == ("is" if (first if from_second else second).number == 1 else "are")
        relation = scene.relation if from_second else OPPOSITE[scene.relation]
        assert sample["answer"] == f" {relation.removesuffix(' of')}"
        sides[from_second] += 1
    assert sides[True] / sides.total() == pytest.approx(0.5, abs=0.06)


def test_exactly_one_choice_is_in_the_picture(asked):
    places = Counter()
    for scene, sample in asked["choice"]:
        present = {group.name for group in scene.groups}
        assert len(set(sample["choices"])) == 4
        assert [choice for choice in sample["choices"] if choice in present] == sample["references"]
        *first, last = sample["choices"]
        assert sample["prompt"] == f"Which is there: {', '.join(first)} or {last}?"
        places[sample["choices"].index(sample["answer"].strip())] += 1
    assert min(places[i] for i in range(4)) > 0.18 * places.total()


def test_relations_are_asked_of_two_kinds_only_and_unknown_kinds_refused():
    data = OpenMojiScenes("test", size=300)
    drawn = [data.scene(i)[:2] for i in range(300)]
    assert {kind for _, kind in drawn} == {"caption", "presence", "count", "relation", "choice"}
    assert all(scene.relation for scene, kind in drawn if kind == "relation")
    with pytest.raises(ValueError, match="unknown kind 'colour'"):
        ask(drawn[0][0], "colour", random.Random(0))


def centre(scene, data, name, seed):
    """Find the pixels (x, y) of a thing, by drawing the scene with everything else invisible."""
    hidden = {thing: sprite if thing == name else np.zeros_like(sprite) for thing, sprite in data.sprites.items()}
    pixels = np.asarray(draw_scene(scene, hidden, random.Random(seed)))
    empty = np.asarray(draw_scene(scene, dict.fromkeys(THINGS, hidden["none"]), random.Random(seed)))
    ys, xs = np.nonzero((pixels != empty).any(-1))
    return xs.mean(), ys.mean()


@pytest.mark.parametrize("relation", list(RELATIONS))
def test_the_groups_lie_where_the_relation_says(relation):
    data = OpenMojiScenes("train", size=1)
    data.sprites["none"] = np.zeros_like(data.sprites["fox"])
    rng = random.Random(relation)
    for seed in range(8):
        first, second = rng.sample(range(100), 2)
        numbers = rng.choice(PAIR_NUMBERS) if seed else (1, 1)
        scene = Scene((Group(first, numbers[0]), Group(second, numbers[1])), relation, rng.choice(list(COLOURS)))
        (x, y), (other_x, other_y) = (centre(scene, data, THINGS[thing], seed) for thing in (first, second))
        across, along = (other_x - x, other_y - y) if "of" in relation else (other_y - y, other_x - x)
        forward = 1 if relation in ("left of", "above") else -1
        assert forward * across > 25
        assert abs(along) < 25


def test_as_many_pictures_are_drawn_as_the_scene_says_and_none_hides_another():
    yy, xx = np.mgrid[:72, :72]
    disc = np.zeros((72, 72, 4), np.uint8)
    disc[(yy - 35.5) ** 2 + (xx - 35.5) ** 2 < 30**2] = (0, 0, 0, 255)
    singles = [Scene((Group(0, number),), None, "white") for number in NUMBERS]
    pairs = [Scene((Group(0, a), Group(1, b)), r, "white") for a, b in set(PAIR_NUMBERS) for r in RELATIONS]
    for number, scene in enumerate(singles + pairs):
        picture = draw_scene(scene, dict.fromkeys(THINGS, disc), random.Random(number))
        dark = picture.convert("L").point(lambda light: 255 if light < 100 else 0)
        found = 0
        while dark.getextrema()[1] == 255:
            y, x = np.argwhere(np.asarray(dark) == 255)[0]
            ImageDraw.floodfill(dark, (int(x), int(y)), 0)
            found += 1
        assert found == sum(group.number for group in scene.groups)


def test_several_questions_about_one_scene():
    plain, asked = (OpenMojiScenes("test", size=40, seed=3, turns=turns) for turns in (1, 4))
    for index in range(40):
        sample = asked[index]
        prompts = [turn["prompt"] for turn in sample["turns"]]
        assert len(set(prompts)) == 4 == asked.number_of_turns(index)
        assert sample["turns"][0]["kind"] == plain[index]["kind"]
        assert np.array_equal(np.asarray(sample["image"]), np.asarray(plain[index]["image"]))
        for turn in sample["turns"]:
            if turn["kind"] == "caption":
                assert set(turn["references"]) == set(captions(asked.scene(index)[0]))
    assert [len(OpenMojiScenes(size=3, kinds=("caption",), turns=2)[n]["turns"]) for n in range(3)] == [1, 1, 1]
    with pytest.raises(ValueError, match="turns must be at least 1, got 0"):
        OpenMojiScenes(turns=0)
