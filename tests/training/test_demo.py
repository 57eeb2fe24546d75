"""The demo on tiny bases at a tiny size: both acts, and pages that name the model."""

import json

import easy_vqa_files
import pytest
import tiny

from adem_vl_hf import AdemVLProcessor, demo
from adem_vl_hf.loading import build_model


@pytest.mark.parametrize(("kind", "title"), [("adem_vl", "ADEM-VL on easy-VQA"), ("evlm", "EVLM on easy-VQA")])
def test_the_story_of_either_model(bases, tmp_path, monkeypatch, capsys, kind, title):
    elsewhere = []

    def load():
        model = tiny.build(bases)
        return model, AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)

    def build(language_model, vision_tower, kind, **settings):
        frozen = {name: value for name, value in settings.items() if name == "vision_adapter_dim"}
        model, processor = build_model(str(bases / "llama"), str(bases / "clip"), kind, **frozen)
        return tiny.perturb(model, std=0.1), processor

    def answer_elsewhere(folder, samples):
        elsewhere.append(json.loads((folder / "config.json").read_text())["model_type"])
        return [("what color is the shape?", "red", ["blue"])]

    easy_vqa_files.install(tmp_path / "index", monkeypatch)
    monkeypatch.setattr(demo, "load_checkpoint", load)
    monkeypatch.setattr(demo, "build_model", build)
    monkeypatch.setattr(demo, "embedded_language_model", lambda: None)
    monkeypatch.setattr(demo, "embedded_dinov2", lambda: None)
    monkeypatch.setattr(demo, "fastest_setting", dict)
    monkeypatch.setattr(demo, "answer_elsewhere", answer_elsewhere)
    monkeypatch.setattr(demo, "SCENES", {"caption": 1, "choice": 1})
    output = tmp_path / "demo"
    demo.main(["--steps", "1", "--test-images", "2", "--output-dir", str(output), "--model", kind])
    assert elsewhere == [kind]
    page = (output / "index.html").read_text(encoding="utf-8")
    assert f"<h1>{title}</h1>" in page
    assert ("2407.14177" in page) == (kind == "evlm")
    for name in demo.RECIPES[kind].shown:
        assert f"<dt>{name}</dt>" in page
    assert 'href="shipped.html"' in page
    first = (output / "shipped.html").read_text(encoding="utf-8")
    assert 'href="index.html"' in first
    assert "OpenMoji" in first
    assert json.loads((output / "training.json").read_text())["steps"] == 1
    assert not (output / "features").exists()
    metrics = json.loads((output / "metrics.json").read_text())
    assert set(metrics["easy-vqa"]) == {"true", "shuffled", "none"}
    assert metrics["easy-vqa"]["true"]["questions"]["all"]["n"] == 3
    assert "the question alone gives 33.3%" in capsys.readouterr().out


def test_every_model_has_a_recipe_that_fits_it(bases):
    for kind, recipe in demo.RECIPES.items():
        settings = {**recipe.settings}
        if "vision_feature_layer" in settings:  # the tiny tower has fewer blocks than the one that ships
            settings["vision_feature_layer"] = -1
        model, _ = build_model(str(bases / "llama"), str(bases / "clip"), kind, **settings)
        assert model.config.model_type == kind
        assert all(hasattr(model.config, field) for field in recipe.shown.values())
