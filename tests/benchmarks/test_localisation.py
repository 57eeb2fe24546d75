"""The mass of maps in boxes: by hand on small grids, and measured so that an interruption loses nothing."""

import evlm
import numpy as np
import pytest
import scripts
import tiny
import torch

from adem_vl_hf import AdemVLProcessor, EvlmProcessor
from adem_vl_hf.data import OpenMojiScenes


@pytest.fixture
def localisation(tmp_path, monkeypatch):
    script = scripts.load("benchmarks/localisation.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path)
    return script


def test_the_mass_inside_a_box(localisation):
    box = np.zeros((8, 8))
    box[:4, :6] = 1  # the upper left place of four, and half of the upper right one
    grid = torch.tensor([[3.0, 1.0], [-7.0, 1.0]])
    assert localisation.mass_inside(grid, box) == pytest.approx((3 + 0.5) / 5)
    assert localisation.mass_inside(torch.zeros(2, 2), box) == pytest.approx(24 / 64)


def test_boxes_are_around_the_things(localisation):
    data = OpenMojiScenes("test", 40, kinds=("caption",))
    looks = scripts.load("benchmarks/where_it_looks.py")
    for index in list(looks.of_two_kinds(data))[:5]:
        scene, *_ = data.scene(index)
        for group in scene.groups:
            box = localisation.box_of(data, index, group.name)
            changed = looks.draw_without(data, index, group.name)
            assert not (changed & (box == 0)).any()
            rows, columns = box.any(1).sum(), box.any(0).sum()
            assert box.sum() == rows * columns < box.size


def test_it_goes_on_where_it_stopped(localisation, bases, monkeypatch):
    model = tiny.build(bases, visual_token_counts=[16, 4], drop_ratio=0.25).eval()
    loaded = model, AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)
    monkeypatch.setattr(localisation, "load_checkpoint", lambda name, **settings: loaded)
    monkeypatch.setattr(
        localisation, "MAPS", {name: name for name in ("contribution", "contribution 4", "contribution 2", "kept")}
    )
    scripts.call(localisation, monkeypatch, "--scenes", 1)
    first = localisation.tables.load("localisation")["scenes"]
    monkeypatch.setattr(localisation, "SAVE_EVERY", 1)
    asked = []
    maps_of = localisation.maps_of
    monkeypatch.setattr(localisation, "maps_of", lambda *args: asked.append(1) or maps_of(*args))
    scripts.call(localisation, monkeypatch, "--scenes", 2)
    saved = localisation.tables.load("localisation")["scenes"]
    assert len(asked) == 1  # the first scene was measured before
    assert len(saved) == 2
    assert first.items() <= saved.items()
    for scene in saved.values():
        for word in scene:
            assert all(0 <= share <= 1 for name in localisation.MAPS for share in word[name])
    assert "4 words of 2 scenes" in localisation.sections()["localisation"]
    monkeypatch.setattr(localisation, "load_checkpoint", None)
    scripts.call(localisation, monkeypatch, "--scenes", 2)  # nothing is left to measure


def test_an_evlm_is_trained_and_its_levels_are_measured(localisation, bases, tmp_path, monkeypatch):
    model = evlm.build(bases, vision_feature_layer=[1, 3], level_map=[0, 1, 0])
    processor = EvlmProcessor.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), model.config)
    trained = []

    def fine_tune(folder, steps, **settings):
        trained.append((folder, steps, settings["recipe"]))
        model.save_pretrained(folder)
        processor.save_pretrained(folder)

    monkeypatch.setattr(localisation, "fine_tune", fine_tune)
    arguments = ["--model", "evlm", "--scenes", 1, "--steps", 7, "--output-dir", tmp_path / "run"]
    scripts.call(localisation, monkeypatch, *arguments)
    assert trained == [(tmp_path / "run", 7, "evlm")]
    ((word, _),) = localisation.tables.load("localisation_evlm")["scenes"].values()
    levels = ["level 1, block 1", "level 2, block 3"]
    maps = [
        "contribution, all levels together",
        *(f"{kind}, {one}" for kind in ("contribution", "attention") for one in levels),
    ]
    assert list(word) == ["word", "areas", *maps]
    text = localisation.sections()["localisation of evlm"]
    assert "| attention, level 2, block 3 |" in text
    assert "2 words of 1 scenes, after 7 training steps." in text
    scripts.call(localisation, monkeypatch, *arguments)
    assert len(trained) == 1  # nothing is left to measure
