"""Pairs of images: the held-out combinations, texts that are true of the images, and questions that need both."""

import random
import re
from collections import Counter

import numpy as np
import pytest

from adem_vl_hf.data import OpenMojiPairs, open_dataset
from adem_vl_hf.data.openmoji.drawing import COLOURS
from adem_vl_hf.data.openmoji.pairs import LAYOUT, Pair, ask, draw_pair, is_held_out, swapped
from adem_vl_hf.data.openmoji.scenes import NUMBERS, Group, phrase
from adem_vl_hf.data.openmoji.things import THINGS, plural

SIDES = ("the first", "the second")


def pairs(split, number, **arguments):
    data = OpenMojiPairs(split, size=number, **arguments)
    return [data.pair(index) for index in range(number)]


def combination(pair):
    one, other = pair.groups
    if one.thing == other.thing:
        return one.thing, *sorted((one.number, other.number))
    return frozenset((one.thing, other.thing))


def test_no_combination_of_the_test_split_is_ever_in_training():
    train = [pair for seed in (0, 1) for pair, *_ in pairs("train", 6000, seed=seed)]
    test = [pair for seed in (0, 1) for pair, *_ in pairs("test", 2000, seed=seed)]
    seen, held_out = {combination(pair) for pair in train}, {combination(pair) for pair in test}
    assert len(seen) > 3000
    assert len(held_out) > 500
    assert not seen & held_out
    groups = [group for pair in train for group in pair.groups]
    assert {group.thing for group in groups} == set(range(100))
    assert {group.number for group in groups} == set(NUMBERS)
    assert {colour for pair in train for colour in pair.colours} == set(COLOURS)
    assert all(is_held_out(pair) == is_held_out(swapped(pair)) for pair in test + train)
    for thing in range(100):  # each has one pair of its numbers held out
        pairs_of_numbers = [(a, b) for a in NUMBERS for b in NUMBERS if a <= b]
        kept = [Pair((Group(thing, a), Group(thing, b)), ("red", "red")) for a, b in pairs_of_numbers]
        assert sum(map(is_held_out, kept)) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_are_true_and_exactly_balanced(split):
    answers = {kind: Counter() for kind in ("same", "more", "which")}
    for pair, kind, side, _ in pairs(split, 1200, kinds=("same", "more", "which")):
        texts = ask(pair, kind, side)
        question = texts["prompt"].removeprefix(LAYOUT)
        one, other = pair.groups
        if kind == "same":
            assert question == "Is the same thing in both pictures?"
            truth = "yes" if one.thing == other.thing else "no"
        elif kind == "more":
            name = re.fullmatch(r"Which picture has more ([a-z]+): the first or the second\?", question)[1]
            assert plural(one.name) == plural(other.name) == name
            truth = SIDES[[group.number for group in pair.groups].index(max(one.number, other.number))]
            assert one.number != other.number
        else:
            shown = re.fullmatch(r"Which picture shows (.+): the first or the second\?", question)[1]
            (truth,) = [side for side, group in zip(SIDES, pair.groups, strict=True) if phrase(group) == shown]
            assert one.thing != other.thing
        assert texts["answer"] == f" {truth}"
        assert texts["references"] == [truth]
        assert truth in texts["choices"]
        answers[kind][truth] += 1
    assert all(list(counts.values()) == [200, 200] for counts in answers.values())


def test_equal_numbers_do_not_tell_that_the_things_are_the_same():
    equal = {True: [], False: []}
    for pair, *_ in pairs("train", 4000, kinds=("same",)):
        one, other = pair.groups
        equal[one.thing == other.thing].append(one.number == other.number)
    assert np.mean(equal[True]) == pytest.approx(np.mean(equal[False]), abs=0.05)


def test_swapping_the_pictures_turns_the_answer():
    for kind in ("more", "which"):
        for pair, _, side, _ in pairs("test", 50, kinds=(kind,)):
            here, there = ask(pair, kind, side), ask(swapped(pair), kind, 1 - side)
            assert here["prompt"] == there["prompt"]
            assert {here["answer"], there["answer"]} == {" the first", " the second"}


def test_captions_name_both():
    pair = Pair((Group(THINGS.index("cow"), 1), Group(THINGS.index("taxi"), 2)), ("red", "blue"))
    texts = ask(pair, "caption", 0)
    assert texts["prompt"] == "First picture: <image>\nSecond picture: <image>\nThe pictures show"
    assert texts["answer"] == " first a cow, then two taxis"
    assert texts["references"] == ["first a cow, then two taxis"]
    with pytest.raises(ValueError, match="unknown kind 'colour'"):
        ask(pair, "colour", 0)


def test_the_pictures_show_the_groups_in_order():
    data = OpenMojiPairs("train", size=1)
    blank = dict.fromkeys(THINGS, np.zeros((72, 72, 4), np.uint8))
    pair = Pair((Group(0, 3), Group(1, 1)), ("red", "blue"))
    empty = draw_pair(pair, blank, random.Random(5))
    first_only = draw_pair(pair, blank | {THINGS[0]: data.sprites[THINGS[0]]}, random.Random(5))
    assert [a.tobytes() != b.tobytes() for a, b in zip(empty, first_only, strict=True)] == [True, False]
    (red, _, low), (low_red, _, blue) = (picture.getpixel((0, 0)) for picture in empty)
    assert red > 150 > 100 > low
    assert blue > 150 > 100 > low_red


def test_samples_are_drawn_from_seed_split_and_index():
    sample, same = (OpenMojiPairs("train", size=40)[33] for _ in range(2))
    assert sample["image"] is None
    assert len(sample["images"]) == sample["prompt"].count("<image>") == 2
    assert [p.tobytes() for p in sample["images"]] == [p.tobytes() for p in same["images"]]
    other = OpenMojiPairs("train", size=40, seed=1)[33]
    assert other["images"][0].tobytes() != sample["images"][0].tobytes()
    with pytest.raises(IndexError):
        OpenMojiPairs("train", size=40)[40]
    assert len(open_dataset("openmoji-pairs", "test", 9)[8]["images"]) == 2


def test_bad_arguments():
    for arguments, message in (
        ({"split": "val"}, "split must be 'train' or 'test'"),
        ({"size": 0}, "size must be at least 1"),
        ({"kinds": ("order",)}, r"kinds \['order'\]: the pairs data set has \['caption', 'same'"),
    ):
        with pytest.raises(ValueError, match=message):
            OpenMojiPairs(**arguments)
