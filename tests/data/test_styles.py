"""The drawings in other styles: they are complete, differ from OpenMoji's, and change nothing but the drawing."""

import random

import numpy as np
import pytest

from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes
from adem_vl_hf.data.openmoji import styles
from adem_vl_hf.data.openmoji.scenes import draw_scene
from adem_vl_hf.data.openmoji.sprites import openmoji
from adem_vl_hf.data.openmoji.styles import STYLES, sprites_in
from adem_vl_hf.data.openmoji.things import THINGS

BOTH = [OpenMojiNames, OpenMojiScenes]


def texts(sample):
    return {key: value for key, value in sample.items() if key != "image"}


@pytest.mark.parametrize("style", STYLES[1:])
def test_every_thing_has_a_drawing_of_its_own_in_every_style(style):
    sprites, own = sprites_in(style), sprites_in("openmoji")
    assert sprites.shape == own.shape
    assert sprites.dtype == np.uint8
    assert len({sprite.tobytes() for sprite in sprites}) == len(openmoji()[0])
    assert not any(np.array_equal(one, other) for one, other in zip(sprites, own, strict=True))
    covered = (sprites[..., 3] > 127).mean((1, 2))  # the share of the square that is drawn on
    assert covered.min() > 0.04
    assert covered.max() < 1


def test_drawings_of_one_thing_are_more_alike_than_of_two():
    """By the mean colours of an 8 x 8 grid, which tell a wrong order of the things from the right one."""
    grids = {
        style: (sprites_in(style) / 255.0).reshape(-1, 8, 9, 8, 9, 4).mean((2, 4)).reshape(-1, 8 * 8 * 4)
        for style in STYLES
    }
    for style in STYLES[1:]:
        same = np.square(grids[style] - grids["openmoji"]).mean()
        shifted = np.square(grids[style] - np.roll(grids["openmoji"], 1, axis=0)).mean()
        assert same < 0.9 * shifted, (style, same, shifted)  # 0.75 to 0.82 of it


@pytest.mark.parametrize("dataset", BOTH)
def test_a_style_changes_the_drawing_and_nothing_else(dataset):
    default, own = dataset("test", size=40), dataset("test", size=40, styles=["openmoji"])
    noto, mixed = dataset("test", size=40, styles=["noto"]), dataset("test", size=40, styles=["openmoji", "noto"])
    images = {"openmoji": 0, "noto": 0}
    for index in range(40):
        samples = [data[index] for data in (default, own, noto, mixed)]
        assert all(texts(sample) == texts(samples[0]) for sample in samples)
        first, again, other, one_of_both = (sample["image"].tobytes() for sample in samples)
        assert first == again != other
        images["openmoji" if one_of_both == first else "noto"] += 1
        assert one_of_both in (first, other)
        assert mixed[index]["image"].tobytes() == one_of_both  # again, it follows from the index
    assert min(images.values()) >= 10  # of 40


def test_sprites_of_a_scene_are_those_of_its_things():
    scenes, place = OpenMojiScenes("test", size=1, styles=["fluent"]), [t.name for t in openmoji()[0]].index("cat")
    assert np.array_equal(scenes.sprites["cat"], sprites_in("fluent")[place])
    scene = OpenMojiScenes("test", size=1).scene(0)[0]
    drawn = [draw_scene(scene, scenes.sprites, random.Random(0)).tobytes(), scenes[0]["image"].tobytes()]
    assert len(set(drawn)) == 2  # sizes and angles are random
    assert set(scenes.sprites) == set(THINGS)


@pytest.mark.parametrize("dataset", BOTH)
@pytest.mark.parametrize("wrong", ["noto", [], ["noto", "emojione"]])
def test_wrong_styles_are_named(dataset, wrong):
    with pytest.raises(ValueError, match=r"styles must be one or more of \['openmoji', 'twemoji', 'noto', 'fluent'\]"):
        dataset("test", styles=wrong)


def test_drawings_are_rendered_once(tmp_path, monkeypatch):
    things, own = openmoji()
    monkeypatch.setenv("ADEM_VL_HF_CACHE", str(tmp_path))
    monkeypatch.setattr(styles, "openmoji", lambda: (things[:3], own[:3]))
    first = sprites_in.__wrapped__("noto")
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("noto-")
    monkeypatch.setattr(styles, "rasterise", None)
    assert np.array_equal(sprites_in.__wrapped__("noto"), first)
    assert np.array_equal(first, sprites_in("noto")[:3])
