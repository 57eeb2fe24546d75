"""Clips: what is held out, whether texts say what the frames show, and whether only their order tells the direction."""

import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from adem_vl_hf.data import OpenMojiVideos, open_dataset
from adem_vl_hf.data.openmoji.clips import (
    FAMILIES,
    FAMILY,
    KINDS,
    TURNED,
    WORDS,
    Clip,
    ask_order,
    caption,
    draw_clip,
    is_held_out,
    opposite,
)
from adem_vl_hf.data.openmoji.drawing import CANVAS, COLOURS
from adem_vl_hf.data.openmoji.things import THINGS, singular

CAPTION = re.compile(r"an? ([a-z]+) (.+) on an? ([a-z]+) background")
EVENTS = {words[0]: event for event, words in WORDS.items()}
PERIOD = 20  # samples of kind "order" after which every answer has come equally often


@pytest.fixture(scope="module")
def data():
    return OpenMojiVideos("train", size=400)


def clips(split, number, **arguments):
    data = OpenMojiVideos(split, size=number, **arguments)
    return [data.clip(index) for index in range(number)]


def parse(text):
    name, happening, colour = CAPTION.fullmatch(text).groups()
    things = (THINGS.index(name),)
    if other := re.fullmatch(r"becomes an? ([a-z]+)", happening):
        return Clip("becomes", (*things, THINGS.index(other[1])), colour)
    return Clip(EVENTS[happening], things, colour)


def arrays(frames):
    return [np.asarray(frame) for frame in frames]


def every_event(colour="white"):
    for event, family in FAMILY.items():
        yield Clip(event, (7, 50) if family == "replacement" else (7,), colour)
    yield Clip("becomes", (50, 7), colour)


def test_no_combination_of_the_test_split_is_ever_in_training():
    def combinations(split, number):
        drawn = [clip for seed in (0, 1) for clip, *_ in clips(split, number, seed=seed)]
        return drawn, {(clip.family, tuple(sorted(clip.things))) for clip in drawn}

    train, seen = combinations("train", 3000)
    _, held_out = combinations("test", 1000)
    assert len(seen) > 1000
    assert len(held_out) > 250
    assert not seen & held_out
    assert {clip.things[0] for clip in train if clip.family != "replacement"} == set(range(100))
    assert {clip.event for clip in train} == set(FAMILY)
    assert {clip.colour for clip in train} == set(COLOURS)
    # an event and its opposite are held out together: the thing does not tell which of the two it was
    assert all(is_held_out(c.family, c.things) == is_held_out(c.family, opposite(c).things[::-1]) for c in train)
    events = {(clip.things, clip.event) for clip in train if clip.family != "replacement"}
    assert len(events) == pytest.approx(2 * len({(c.things, c.family) for c in train if len(c.things) == 1}), rel=0.02)


@pytest.mark.parametrize("clip", list(every_event()), ids=lambda clip: f"{clip.event}-{clip.things[0]}")
def test_played_backwards_it_is_the_clip_of_the_opposite(clip, data):
    for seed in range(6):
        for frames in (2, 3, 8):
            there, back = (
                arrays(draw_clip(one, data.sprites, random.Random(seed), frames)) for one in (clip, opposite(clip))
            )
            assert len(there) == frames
            assert all((one == other).all() for one, other in zip(there, back[::-1], strict=True))
            assert any((one != other).any() for one, other in zip(there, back, strict=True))
    assert opposite(opposite(clip)) == clip


def seen(frames):
    """Of each frame: centre x and y of what is not background, and its width and height together."""
    result = []
    for pixels in arrays(frames):
        ys, xs = np.nonzero((pixels != pixels[0, 0]).any(-1))
        result.append((xs.mean(), ys.mean(), np.ptp(xs) + np.ptp(ys)))
    return np.array(result).T  # [3, frames]


@pytest.mark.parametrize(
    ("event", "measure", "sign"),
    [
        ("moves right", 0, 1),
        ("moves left", 0, -1),
        ("moves down", 1, 1),
        ("moves up", 1, -1),
        ("grows", 2, 1),
        ("shrinks", 2, -1),
    ],
)
def test_the_frames_show_the_event(event, measure, sign, data):
    for thing in range(0, 100, 9):
        x, y, extent = found = seen(draw_clip(Clip(event, (thing,), "blue"), data.sprites, random.Random(thing), 8))
        steps = sign * np.diff(found[measure])
        assert (steps >= (measure == 2 and -1)).all()  # an extent is of whole pixels
        assert (steps > 0).sum() >= 6
        if measure == 2:
            assert 1.3 < (extent[-1] / extent[0]) ** sign < 2.1
        else:
            assert 20 < abs(found[measure][-1] - found[measure][0]) < 45
            assert np.ptp((x, y)[1 - measure]) < 2


def test_a_turn_is_as_far_as_it_says(data):
    """A dark bar with a tip: where the tip points goes round in the event's direction, by less than half a turn."""
    sprite = np.zeros((72, 72, 4), np.uint8)
    sprite[34:38, 36:68] = (0, 0, 0, 255)
    for event, sign in (("turns clockwise", 1), ("turns anticlockwise", -1)):
        for seed in range(8):
            clip = Clip(event, (TURNED[0],), "white")
            frames = draw_clip(clip, {THINGS[TURNED[0]]: sprite}, random.Random(seed), 8)
            full = draw_clip(clip, {THINGS[TURNED[0]]: np.full_like(sprite, 255)}, random.Random(seed), 8)
            middle = seen_dark(full, 999)[:2].mean(-1, keepdims=True)  # the square's centre
            x, y = seen_dark(frames, 100)[:2] - middle
            steps = np.rad2deg(np.diff(np.unwrap(np.arctan2(y, x))))  # y points down: clockwise is positive
            assert (sign * steps > 5).all()
            assert 90 < sign * steps.sum() < 180


def seen_dark(frames, limit):
    """As ``seen``, of pixels darker than ``limit``; with 999 of the whitest, the canvas being off-white."""
    result = []
    for frame in frames:
        light = np.asarray(frame.convert("L")).astype(int)
        ys, xs = np.nonzero(light == light.max() if limit == 999 else light < limit)
        result.append((xs.mean(), ys.mean(), len(xs)))
    return np.array(result).T


def test_a_replacement_shows_one_thing_and_then_the_other(data):
    sprites = dict.fromkeys(THINGS, np.zeros((72, 72, 4), np.uint8))
    red, blue = np.full((2, 72, 72, 4), 255, np.uint8)
    red[..., 1:3], blue[..., :2] = 0, 0
    sprites |= {THINGS[9]: red, THINGS[4]: blue}
    cuts = Counter()
    for seed in range(30):
        frames = draw_clip(Clip("becomes", (9, 4), "grey"), sprites, random.Random(seed), 8)
        is_red = [pixels[..., 0].mean() > pixels[..., 2].mean() + 20 for pixels in arrays(frames)]
        is_blue = [pixels[..., 2].mean() > pixels[..., 0].mean() + 20 for pixels in arrays(frames)]
        assert is_blue == [not red for red in is_red]
        assert is_red == sorted(is_red, reverse=True)
        cuts[sum(is_red)] += 1
    assert set(cuts) == {3, 4, 5}


def test_half_of_the_clips_begin_where_their_opposites_may(data):
    """A model that sees the first frame alone cannot be right much more often than three times of four."""
    for event, other, measure in (("moves right", "moves left", 0), ("grows", "shrinks", 2)):
        starts = {
            e: np.array([seen(draw_clip(Clip(e, (0,), "blue"), data.sprites, random.Random(s), 3))[measure][0]
                         for s in range(100)])
            for e in (event, other)
        }  # fmt: skip
        best = max(
            ((starts[event] < limit).mean() + (starts[other] >= limit).mean()) / 2
            for limit in np.concatenate([*starts.values()])
        )
        assert 0.65 < best < 0.85


def test_things_stay_on_the_canvas(data):
    solid = {name: np.where(sprite[..., 3:] > 40, 255, 0).astype(np.uint8) * np.ones(4, np.uint8)
             for name, sprite in data.sprites.items()}  # fmt: skip
    shown = [
        replace(clip, things=(thing, 99)[: len(clip.things)]) for thing in range(0, 99, 3) for clip in every_event()
    ]
    for seed, clip in enumerate(shown):
        for pixels in arrays(draw_clip(replace(clip, colour="grey"), solid, random.Random(seed), 3)):
            edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            assert (edge > 250).all(-1).sum() < 12


def test_captions_say_exactly_the_clip():
    for split in ("train", "test"):
        for clip, *_ in clips(split, 400):
            assert parse(caption(clip)) == clip
    assert (
        caption(Clip("becomes", (THINGS.index("ant"), 11), "orange"))
        == "an ant becomes an elephant on an orange background"
    )
    sample = OpenMojiVideos("test", size=1, kinds=("caption",))[0]
    assert sample["prompt"] == "In the video,"
    assert sample["references"] == [sample["answer"].strip()]


def answer_to(prompt, clip):
    """The truth, worked out from the words of the question alone."""
    if found := re.fullmatch(r"Which comes first: the ([a-z]+) or the ([a-z]+)\?", prompt):
        assert set(found.groups()) == set(clip.names)
        return f"the {clip.names[0]}"
    if found := re.fullmatch(r"Does the ([a-z]+) (?:move |turn )?([a-z]+) or ([a-z]+)\?", prompt):
        assert found[1] == clip.names[0]
        (answer,) = [word for word in found.groups()[1:] if word == WORDS[clip.event][2]]
        return answer
    name, happening = re.fullmatch(r"Does the ([a-z]+) (.+)\?", prompt).groups()
    if clip.family == "replacement":
        assert {name, happening.split()[-1]} == set(clip.names)
        return "yes" if (name, happening) == (clip.names[0], f"become {singular(clip.names[1])}") else "no"
    assert name == clip.names[0]
    assert happening in {WORDS[event][1] for event in FAMILIES[clip.family]}
    return "yes" if happening == WORDS[clip.event][1] else "no"


@pytest.mark.parametrize("split", ["train", "test"])
def test_questions_of_order_are_true_and_exactly_balanced(split):
    answers, named_first = Counter(), Counter()
    for clip, _, texts, _ in clips(split, 10 * PERIOD, kinds=("order",)):
        truth = answer_to(texts["prompt"], clip)
        assert texts["answer"] == f" {truth}"
        assert texts["references"] == [truth]
        assert len(texts["choices"]) == 2
        assert truth in texts["choices"]
        yes_no = truth in ("yes", "no")
        direction = truth if yes_no or clip.family != "replacement" else clip.things[0] < clip.things[1]
        answers[clip.family, yes_no, direction] += 1
        if not yes_no:
            named_first[texts["choices"][0] == truth] += 1
    assert set(answers.values()) == {10}
    assert len(answers) == 20
    assert abs(named_first[True] - named_first[False]) < 30
    # the opposite clip, asked the same, has the other answer
    for clip in every_event():
        for form in ("two-way", "yes-no"):
            texts = ask_order(clip, form, True, random.Random(0))
            other = answer_to(texts["prompt"].replace(*clip.names, "X").replace("X", clip.names[0])
                              if len(clip.names) == 1 else texts["prompt"], opposite(clip))  # fmt: skip
            assert {texts["references"][0], other} == set(texts["choices"])


@pytest.mark.parametrize("kinds", [("order",), ("order", "caption", "order")])
def test_questions_of_order_come_in_pairs_that_differ_in_nothing_else(kinds):
    data = OpenMojiVideos("test", size=20 * len(kinds), kinds=kinds)
    for index in range(len(data)):
        turn, place = divmod(index, len(kinds))
        if kinds[place] == "order" and turn % 2 == 0:
            one, other = data[index], data[index + len(kinds)]
            assert (one["prompt"], one["choices"]) == (other["prompt"], other["choices"])
            assert {one["answer"].strip(), other["answer"].strip()} == set(one["choices"])
            frames = zip(arrays(one["video"]), arrays(other["video"])[::-1], strict=True)
            assert all((first == second).all() for first, second in frames)


@pytest.mark.parametrize("split", ["train", "test"])
def test_presence_and_what_are_true_and_exactly_balanced(split):
    answers, asked = Counter(), {True: Counter(), False: Counter()}
    for clip, _, texts, _ in clips(split, 1000, kinds=("presence",)):
        name = re.fullmatch(r"Is there an? ([a-z]+) in the video\?", texts["prompt"])[1]
        truth = name in clip.names
        assert texts["answer"] == (" yes" if truth else " no")
        answers[clip.family, truth] += 1
        asked[truth][name] += 1
    assert set(answers.values()) == {100}
    # the name asked for does not tell: those of the one answer are those of the other
    if split == "test":
        assert sum(asked[False][name] for name in asked[True]) > 0.9 * asked[False].total()
    happens = Counter()
    for clip, _, texts, _ in clips(split, 400, kinds=("what",)):
        verb = {"horizontal": "moves", "vertical": "moves", "size": "size", "angle": "turns", "replacement": "replaced"}
        assert verb[clip.family] in texts["references"][0]
        assert texts["references"][0] in texts["choices"]
        happens[texts["answer"]] += 1
    assert list(happens.values()) == [100] * 4


def test_samples_are_drawn_from_seed_split_and_index(data):
    sample = data[41]
    assert sample["image"] is None
    assert [frame.size for frame in sample["video"]] == [(CANVAS, CANVAS)] * 8
    assert all(frame.mode == "RGB" for frame in sample["video"])
    same = OpenMojiVideos("train", size=42)[41]
    assert [f.tobytes() for f in same["video"]] == [f.tobytes() for f in sample["video"]]
    assert same["prompt"] == sample["prompt"]
    for other in (OpenMojiVideos("train", size=42, seed=1), OpenMojiVideos("test", size=42)):
        assert other[41]["video"][0].tobytes() != sample["video"][0].tobytes()
    assert len({data[index]["id"] for index in range(8)}) == 8
    assert [data.clip(index)[1] for index in range(4)] == list(KINDS)
    assert len(OpenMojiVideos("train", size=1, frames=5)[0]["video"]) == 5
    with pytest.raises(IndexError):
        data[400]


def test_bad_arguments():
    for arguments, message in (
        ({"split": "val"}, "split must be 'train' or 'test'"),
        ({"size": 0}, "size must be at least 1"),
        ({"kinds": ("count",)}, r"kinds \['count'\]: the videos data set has \['caption', 'order'"),
        ({"kinds": ()}, "kinds"),
        ({"frames": 1}, "frames must be at least 2, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            OpenMojiVideos(**arguments)


def test_by_name():
    assert len(open_dataset("openmoji-videos", "test", 7)) == 7
    assert "video" in open_dataset("openmoji-videos", "test", 7)[6]
