"""The controls: whose images a model is shown, in which order, and that shuffled frames do not tell their order."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from adem_vl_hf.data import OpenMojiPairs, OpenMojiVideos
from adem_vl_hf.data.openmoji.clips import draw_clip, opposite
from adem_vl_hf.data.sample import Sample
from adem_vl_hf.evaluation import predict
from adem_vl_hf.evaluation.image_conditions import (
    choose_images,
    conditions_of,
    donors_of,
    shuffled_frames,
    swapped_images,
)


def pictures(*values):
    return [Image.new("RGB", (4, 4), (value,) * 3) for value in values]


def greys(frames):
    return [frame.getpixel((0, 0))[0] for frame in frames]


def sample(name="s", image=None, **fields):
    return Sample(id=name, image=image, prompt="Q", answer=" a", references=["a"], kind="k", **fields)


@pytest.mark.parametrize("values", [range(8), (0, 0, 0, 0, 1, 1, 1, 1), (0, 1, 2), (0, 0, 1), (1, 0, 1, 0)])
def test_shuffled_frames_are_the_same_in_a_third_order(values):
    values = list(values)
    for number in range(50):
        made = greys(shuffled_frames(sample(f"s{number}", video=pictures(*values))))
        assert sorted(made) == sorted(values)
        assert made not in (values, values[::-1])
        assert made == greys(shuffled_frames(sample(f"s{number}", video=pictures(*values))))


def test_orders_differ_between_samples_and_seeds():
    eight = pictures(*range(8))
    assert len({tuple(greys(shuffled_frames(sample(f"s{i}", video=eight)))) for i in range(30)}) == 30
    assert len({tuple(greys(shuffled_frames(sample(video=eight), seed))) for seed in range(30)}) == 30


def test_an_order_comes_as_often_as_its_reverse():
    found = Counter(tuple(greys(shuffled_frames(sample(f"s{i}", video=pictures(0, 1, 2))))) for i in range(2000))
    assert set(found) == {(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)}
    assert all(400 < number < 600 for number in found.values())


@pytest.mark.parametrize("values", [(), (0,), (0, 1), (0, 0), (5, 5, 5, 5)])
def test_frames_without_a_third_order_are_refused(values):
    with pytest.raises(
        ValueError, match="sample 'short': its . frames have no order but the right one and its reverse"
    ):
        shuffled_frames(sample("short", video=pictures(*values)))


def test_no_rule_tells_from_shuffled_frames_which_way_it_was():
    """In shuffled clips and their opposites, the positions of the thing do not tell its direction."""
    data = OpenMojiVideos("train", size=800, kinds=("order",))
    right = Counter()
    for index in range(0, 800, 2):  # the first of each pair
        clip, _, _, rng = data.clip(index)
        if clip.family != "horizontal":
            continue
        state = rng.getstate()
        for one in (clip, opposite(clip)):
            rng.setstate(state)
            frames = draw_clip(one, data.sprites, rng, 8)
            for source, video in (
                ("true", frames),
                ("shuffled_frames", shuffled_frames(sample(f"{one.event}{index}", video=frames))),
            ):
                way = 1 if where(video[-1]) > where(video[0]) else -1
                right[source] += way == (1 if one.event == "moves right" else -1)
    assert right["true"] == 160
    assert right["shuffled_frames"] / 160 == pytest.approx(0.5, abs=0.12)


def where(frame):
    """Return the mean x of the pixels that are not background."""
    pixels = np.asarray(frame)
    return np.nonzero((pixels != pixels[0, 0]).any(-1))[1].mean()


def test_swapped_images_are_in_reverse_order():
    assert greys(swapped_images(sample(images=pictures(1, 2)))) == [2, 1]
    assert greys(swapped_images(sample(images=pictures(1, 2, 3)))) == [3, 2, 1]
    for bad in (sample("bad"), sample("bad", images=pictures(1)), sample("bad", video=pictures(1, 2))):
        with pytest.raises(ValueError, match="sample 'bad' has . images in 'images'; swapping takes two or more"):
            swapped_images(bad)


MIXED = [
    sample("i0", pictures(0)[0]),
    sample("v1", video=pictures(10, 11, 12)),
    sample("p2", images=pictures(20, 21)),
    sample("t3"),
    sample("v4", video=pictures(40, 41, 42, 43)),
    sample("p5", images=pictures(50, 51)),
    sample("i6", pictures(60)[0]),
    sample("p7", images=pictures(70, 71, 72)),
    sample("p8", images=pictures(80, 81, 82)),
]


def test_another_s_pictures_are_of_the_same_sort():
    donors = donors_of(len(MIXED))
    found = {s["id"]: choose_images(MIXED, i, s, "shuffled", donors) for i, s in enumerate(MIXED)}
    expected = {
        "i0": ("image", [60]),
        "v1": ("video", [40, 41, 42, 43]),
        "p2": ("images", [50, 51]),
        "t3": (None, []),
        "v4": ("video", [10, 11, 12]),
        "p5": ("images", [20, 21]),
        "i6": ("image", [0]),
        "p7": ("images", [80, 81, 82]),
        "p8": ("images", [70, 71, 72]),
    }
    assert {name: (one.field, greys(one.images)) for name, one in found.items()} == expected
    assert choose_images(MIXED, 1, MIXED[1], "shuffled") == found["v1"]
    with pytest.raises(ValueError, match="sample 'v1' has the only video of the data set"):
        choose_images(MIXED[:4], 1, MIXED[1], "shuffled")


def test_own_pictures_none_and_other_orders():
    pair, video, text = MIXED[2], MIXED[4], MIXED[3]
    assert greys(choose_images(MIXED, 2, pair, "true").images) == [20, 21]
    assert greys(choose_images(MIXED, 2, pair, "swapped_images").images) == [21, 20]
    assert greys(choose_images(MIXED, 4, video, "shuffled_frames").images) == greys(shuffled_frames(video))
    for source in ("true", "shuffled", "none", "shuffled_frames", "swapped_images"):
        assert choose_images(MIXED, 3, text, source).field is None
    assert choose_images(MIXED, 4, video, "none").field is None
    with pytest.raises(ValueError, match="sample 'p2' has no video"):
        choose_images(MIXED, 2, pair, "shuffled_frames")
    with pytest.raises(ValueError, match="sample 'v4' has 0 images in 'images'"):
        choose_images(MIXED, 4, video, "swapped_images")


def test_every_data_set_has_the_controls_that_fit(monkeypatch, tmp_path):
    always = ["true", "shuffled", "none"]
    assert conditions_of(MIXED) == always
    assert conditions_of(MIXED[1:]) == conditions_of(OpenMojiVideos("test", 2)) == [*always, "shuffled_frames"]
    assert conditions_of(MIXED[2:]) == conditions_of(OpenMojiPairs("test", 2)) == [*always, "swapped_images"]
    made = []

    def rows_of(model, processor, dataset, *, output, images, **_):
        made.append((output.name, images))
        return [{"id": "a", "kind": "order", "prediction": "yes", "references": ["yes"]}]

    monkeypatch.setattr(predict, "predict", rows_of)
    scores = predict.evaluate_with_controls(None, None, {"questions": MIXED[1:2]}, tmp_path)
    assert list(scores["questions"]) == [images for _, images in made] == [*always, "shuffled_frames"]
    assert made[-1][0] == "questions-shuffled_frames.jsonl"


def test_shuffling_is_seeded_by_nothing_global():
    random.seed(1)
    first = greys(shuffled_frames(MIXED[4]))
    random.seed(2)
    assert greys(shuffled_frames(MIXED[4])) == first
