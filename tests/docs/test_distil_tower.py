"""The scripts that teach the small CLIP tower to see as DINOv2 does, and move the shipped adapter to it."""

import json
import random

import numpy as np
import pytest
import scripts
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor, CLIPVisionModel, Dinov2Config, Dinov2Model

from adem_vl_hf.data import OpenMojiNames
from adem_vl_hf.data.openmoji.styles import sprites_in
from adem_vl_hf.loading import CHECKPOINT, TOWER
from adem_vl_hf.modeling.vision import vision_features


@pytest.fixture(scope="module")
def pictures():
    return scripts.load("examples/tower_pictures.py")


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


def test_shapes_stand_out_from_their_background(pictures):
    rng = random.Random(0)
    for _ in range(100):
        pixels = pictures.draw_shapes(rng)
        assert pixels.shape == (96, 96, 3)
        far = np.abs(pixels.astype(int) - np.median(pixels.reshape(-1, 3), axis=0)).sum(2).max()
        assert far > 60  # the paints differ by 130, and vary by 15 in each channel


def test_drawings_depend_on_seed_and_number_alone_and_say_what_they_show(pictures):
    drawings, again, other = pictures.Drawings(5), pictures.Drawings(5), pictures.Drawings(6)
    names, shown = OpenMojiNames("train", size=10**9, seed=5, kinds=("caption",)), []
    for index in reversed(range(60)):
        image, thing = drawings.draw(index)
        assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
        assert np.array_equal(again.draw(index)[0], image)
        assert not np.array_equal(other.draw(index)[0], image)
        assert thing in (-1, names.thing_index(index))
        shown.append(thing >= 0)
    assert 24 <= sum(shown) <= 48  # 36 on average


def test_the_style_for_the_test_is_never_drawn(pictures):
    assert "noto" not in pictures.STYLES
    drawn = pictures.Drawings(0)
    noto = {sprite.tobytes() for sprite in sprites_in("noto")}
    for style in pictures.STYLES:
        (varied,) = drawn.changed[style][0].sprites_by_style.values()
        plain = drawn.plain[style][0].sprites
        assert not noto & {sprite.tobytes() for sprite in (*varied.sprites, *varied.others, *plain)}, style


@pytest.fixture
def script(tmp_path, monkeypatch):
    """``distil_tower.py`` with a teacher of one small block, and few measurements."""
    module = scripts.load("examples/distil_tower.py")
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=112, patch_size=14)
    teacher = tmp_path / "teacher"
    Dinov2Model(config).save_pretrained(teacher)
    size = {"height": 112, "width": 112}
    BitImageProcessor(size=size, crop_size=size, do_center_crop=False).save_pretrained(teacher)
    monkeypatch.setattr(module, "embedded_dinov2", lambda: teacher)
    few = module.scores
    monkeypatch.setattr(module, "scores", lambda *given: few(*given, number=4))
    return module


@pytest.mark.slow
def test_the_tower_trains_saves_and_goes_on(script, tmp_path, monkeypatch):
    out, few = tmp_path / "out", ["--batch-size", 8, "--save-every", 1, "--tower", TOWER]
    scripts.call(script, monkeypatch, "--output-dir", out, "--steps", 3, *few)
    first = load_file(out / "tower" / "model.safetensors")
    with (out / "log.jsonl").open() as log:
        assert [json.loads(line)["step"] for line in log] == [1, 2, 3]
    scripts.call(script, monkeypatch, "--output-dir", out, "--steps", 5, *few, "--workers", 2)
    old, new = (CLIPVisionModel.from_pretrained(folder).state_dict() for folder in (TOWER, out / "tower"))
    assert all((new[name] != old[name]).any() for name in new if name.endswith("weight"))
    then = load_file(out / "tower" / "model.safetensors")
    assert first.keys() == then.keys() == load_file(TOWER / "model.safetensors").keys()
    assert any((first[name] != then[name]).any() for name in first)
    assert {path.name for path in TOWER.iterdir()} - {path.name for path in (out / "tower").iterdir()} == {"README.md"}
    facts = json.loads((out / "tower" / "training.json").read_text())
    assert facts["steps"] == 5
    assert {f"{style}_{what}" for style in script.STYLES for what in ("named", "distance")} < facts.keys()


@pytest.mark.slow
def test_the_linear_layers_find_what_the_teacher_gives_in_what_models_see(script, tmp_path, monkeypatch):
    """The saved layers are in the teacher's units, on the features that ADEM-VL takes from the tower."""
    monkeypatch.setattr(script, "fastest_setting", lambda: {"dtype": torch.float32, "attn_implementation": "eager"})
    teacher = script.Teacher()
    pixels = np.stack([script.Drawings(1).draw(i)[0] for i in range(6)])
    teacher.measure(pixels)
    units = teacher(pixels)
    assert units[:, 0].std(0).mean() == pytest.approx(1, abs=0.01)
    assert units[:, 1:].flatten(0, 1).mean(0).abs().max() < 1e-4
    student = script.Student(TOWER, teacher.width, 7).eval()
    out = tmp_path / "out"
    out.mkdir()
    script.save(student, teacher, TOWER, out, {})
    images, layers = script.Normalise(TOWER)(pixels), load_file(out / "heads.safetensors")
    with torch.inference_mode():
        features = vision_features(CLIPVisionModel.from_pretrained(out / "tower"), images, -1).pooler_output
        found, logits = student(images)
        assert logits.shape == (6, 7)
        for places, name, place in ((slice(0, 1), "cls", 0), (slice(1, None), "patches", 1)):
            expected = found[:, places] * teacher.deviation[place] + teacher.mean[place]
            there = features[:, places] @ layers[f"{name}.weight"].T + layers[f"{name}.bias"]
            torch.testing.assert_close(there, expected, rtol=1e-4, atol=1e-4)
    perfect = torch.randn(2, 65, 32)
    assert script.distance(perfect, perfect) == 0


def test_the_moved_projectors_read_the_features_through_the_layers(bases):
    module = scripts.load("examples/train_on_clip.py")
    old = tiny.build(bases, vision_feature_layer=-1).adapter
    width = old.cls_projector.fc1.in_features
    heads = {f"{place}.weight": torch.randn(width, 5) for place in module.PROJECTORS}
    heads |= {f"{place}.bias": torch.randn(width) for place in module.PROJECTORS}
    weights = {f"adapter.{name}": tensor for name, tensor in old.state_dict().items()}
    new = module.moved(weights, heads)
    features = torch.randn(3, 5)
    for place, name in module.PROJECTORS.items():
        projector = old.get_submodule(name.removeprefix("adapter."))
        expected = projector.fc1(features @ heads[f"{place}.weight"].T + heads[f"{place}.bias"])
        found = features @ new[f"{name}.fc1.weight"].T + new[f"{name}.fc1.bias"]
        torch.testing.assert_close(found, expected)
    assert {name for name in new if new[name] is not weights[name]} == {
        f"{projector}.fc1.{part}" for projector in module.PROJECTORS.values() for part in ("weight", "bias")
    }


@pytest.mark.slow
def test_the_moved_adapter_loads_trains_and_is_exported(bases, tmp_path, monkeypatch):
    module = scripts.load("examples/train_on_clip.py")
    heads = {f"{place}.weight": torch.randn(384, 192) / 20 for place in module.PROJECTORS}
    save_file(
        heads | {f"{place}.bias": torch.zeros(384) for place in module.PROJECTORS}, tmp_path / "heads.safetensors"
    )
    target = tmp_path / "package" / "adapter_on_clip"
    target.parent.mkdir()
    monkeypatch.setattr(module, "CHECKPOINT_ON_CLIP", target)
    scripts.call(module, monkeypatch, "--heads", tmp_path / "heads.safetensors", "--output-dir", tmp_path / "run",
                 "--steps", 3, "--export")  # fmt: skip
    start, made = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run" / "start", target))
    shipped = load_file(CHECKPOINT / "model.safetensors")
    assert start.keys() == made.keys() == shipped.keys()
    assert any((made[name] != start[name]).any() for name in made)
    config = json.loads((target / "config.json").read_text())
    assert config["vision_model_name_or_path"] == "embedded:clip-96"
    assert json.loads((target / "training.json").read_text())["steps"] == 3
