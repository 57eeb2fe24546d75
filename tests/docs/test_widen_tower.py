"""The script that widens the small CLIP tower: what it draws, that it sees as the models do, and that it goes on."""

import json
import random

import numpy as np
import pytest
import scripts
import tiny
import torch
from safetensors.torch import load_file
from transformers import BitImageProcessor, CLIPVisionModel, Dinov2Config, Dinov2Model

from adem_vl_hf.data import OpenMojiNames, OpenMojiScenes
from adem_vl_hf.data.openmoji.styles import sprites_in
from adem_vl_hf.loading import TOWER
from adem_vl_hf.modeling.vision import vision_features

NAMED = {"openmoji_named": 0.5}


@pytest.fixture(scope="module")
def pictures():
    return scripts.load("examples/tower_pictures.py")


def test_pictures_of_shapes_show_what_their_labels_say(pictures):
    rng, seen, coloured = random.Random(0), set(), set()
    for _ in range(300):
        picture = pictures.draw_shapes(rng)
        assert picture.pixels.shape == (96, 96, 3)
        assert ((picture.shapes > 0) == (picture.colours > 0)).all()
        labelled = np.flatnonzero(picture.shapes)
        assert len(labelled) > 0
        cells = picture.pixels.reshape(8, 12, 8, 12, 3).swapaxes(1, 2).reshape(64, 144, 3).astype(int)
        paints = np.array(list(pictures.PAINTS.values()))[picture.colours[labelled] - 1]
        nearest = np.abs(cells[labelled] - paints[:, None]).max(2).min(1)  # of the pixels in each patch
        assert nearest.max() <= 20, picture.colours[labelled]  # the paint varies by 15 to either side
        seen |= set(picture.shapes[labelled])
        coloured |= set(picture.colours[labelled])
    assert seen == set(range(1, 1 + len(pictures.SHAPES)))
    assert coloured == set(range(1, 1 + len(pictures.PAINTS)))


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "star", "hexagon", "cross", "pentagon"])
def test_shapes_have_their_areas(pictures, shape):
    """By the formula for the area of a polygon from its corners."""
    x, y = np.array(pictures.outline(shape, random.Random(3))).T
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    least, most = {
        "circle": (3.1, np.pi), "square": (1.99, 2.01), "triangle": (1.0, 1.3), "star": (1.1, 1.4),
        "hexagon": (2.59, 2.6), "cross": (1.4, 2.4), "pentagon": (2.37, 2.38),
    }[shape]  # fmt: skip
    assert least <= area <= most


def test_the_teacher_sees_the_data_set_and_the_student_other_drawings_of_it(pictures):
    layouts, again = pictures.Layouts(5), pictures.Layouts(5)
    own = [data("train", size=100, seed=5, kinds=("caption",)) for data in (OpenMojiNames, OpenMojiScenes)]
    plain, scenes = 0, 0
    for index in range(24):
        images, thing = layouts.draw(index, pictures.STYLES)
        assert images.shape == (1 + len(pictures.STYLES), 96, 96, 3)
        sample = np.asarray(own[thing < 0][index]["image"])
        assert any(np.array_equal(images[0], one) for one in (sample, sample[:, ::-1]))
        assert thing == (own[0].thing_index(index) if thing >= 0 else -1)
        plain += np.array_equal(images[0], images[1])
        scenes += thing < 0
        assert all((images[0] != other).any() for other in images[2:])
        corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].astype(int)  # [views, 4, 3]
        assert (np.abs(corners - corners[0]).max(2) == 0).any(1).all()  # the canvas is the same
        assert np.array_equal(again.draw(index, pictures.STYLES)[0], images)
    assert 6 <= plain <= 18
    assert 1 <= scenes <= 12


def test_the_style_for_the_test_is_never_drawn(pictures):
    assert "noto" not in pictures.STYLES
    drawn = pictures.Layouts(0).changed
    assert set(drawn) == set(pictures.STYLES)
    noto = {sprite.tobytes() for sprite in sprites_in("noto")}
    for style, (names, _) in drawn.items():
        (varied,) = names.sprites_by_style.values()
        assert not noto & {sprite.tobytes() for sprite in (*varied.sprites, *varied.others)}, style


def test_it_sees_with_the_adapter_as_the_model_does(bases, tmp_path, monkeypatch):
    module = scripts.load("examples/widen_tower.py")
    # as on a processor that does not multiply bfloat16: the model beside it is in float32
    monkeypatch.setattr(module, "fastest_setting", lambda: {"dtype": torch.float32, "attn_implementation": "eager"})
    model = tiny.build(bases, vision_feature_layer=-1).eval()
    model.save_pretrained(tmp_path)
    pixels = tiny.pictures(3)
    found = module.Tower(bases / "clip", tmp_path)
    with torch.inference_mode():
        for layer, level in ((-2, 0), (-1, 1)):
            expected = vision_features(model.vision_tower, pixels, layer).pooler_output
            bare = vision_features(CLIPVisionModel.from_pretrained(bases / "clip"), pixels, layer).pooler_output
            torch.testing.assert_close(found(pixels)[level], expected)
            torch.testing.assert_close(found(pixels, adapted=False)[level], bare)
            assert (expected - bare).abs().max() > 1e-3


@pytest.fixture
def script(monkeypatch):
    """``widen_tower.py`` with the shipped tower, but without training its classifier on thousands of drawings."""
    module = scripts.load("examples/widen_tower.py")
    monkeypatch.setattr(module.Teaching, "learn", lambda self, teacher, normalise: None)
    monkeypatch.setattr(module.Teaching, "ask_dinov2", lambda self: self.dinov2.fill_(1.0))
    monkeypatch.setattr(module, "scores", lambda *given: NAMED)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [["openmoji", "twemoji", "fluent"], ["openmoji"], ["openmoji", "twemoji", "--dinov2-weight", 1]]
)
def test_the_tower_trains_saves_and_goes_on_to_the_same_bits(script, flags, tmp_path, monkeypatch):
    sizes = ["--steps", 3, "--layouts", 2, "--shapes", 1, "--save-every", 1, "--styles", *flags]
    scripts.call(script, monkeypatch, "--output-dir", tmp_path / "whole", *sizes)
    scored = []

    def stop_at_the_third(*given):  # the first is before any step
        scored.append(given)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return NAMED

    with monkeypatch.context() as patch:
        patch.setattr(script, "scores", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            scripts.call(script, patch, "--output-dir", tmp_path / "cut", *sizes)
    scripts.call(script, monkeypatch, "--output-dir", tmp_path / "cut", *sizes, "--workers", 2)  # draw the same
    whole, cut, old = (
        CLIPVisionModel.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "whole" / "tower", tmp_path / "cut" / "tower", TOWER)
    )
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    assert all((whole[name] != old[name]).any() for name in whole if name.endswith("weight"))
    assert {path.name for path in TOWER.iterdir()} - {path.name for path in (tmp_path / "cut" / "tower").iterdir()} == {
        "README.md"
    }
    facts = json.loads((tmp_path / "cut" / "tower" / "training.json").read_text())
    assert facts == {"steps": 3, "layouts": 2, "shapes": 1, "seed": 0, **NAMED}
    # a run that has learned without the second teacher asks it when it goes on with it
    scripts.call(script, monkeypatch, "--output-dir", tmp_path / "whole", *sizes, "--dinov2-weight", 1)
    assert load_file(tmp_path / "whole" / "teaching.safetensors")["dinov2"].all()


@pytest.mark.slow
def test_dinov2_is_asked_about_each_thing_in_each_style(tmp_path, monkeypatch):
    module = scripts.load("examples/widen_tower.py")
    config = Dinov2Config(
        hidden_size=module.DINOV2_WIDTH, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    size = {"height": 28, "width": 28}
    BitImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(tmp_path)
    monkeypatch.setattr(module, "embedded_dinov2", lambda: tmp_path)
    things = len(OpenMojiNames("train").things)
    teaching = module.Teaching(things, 65, 192)
    teaching.ask_dinov2()
    torch.testing.assert_close(teaching.dinov2.norm(dim=1), torch.ones(things))
    like = teaching.dinov2 @ teaching.dinov2.T
    assert (like.fill_diagonal_(0) < 0.999).all()  # no two things are alike
