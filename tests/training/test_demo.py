"""The demo on tiny bases at a tiny size: every stage, and a page that names the model."""

import json

import pytest
import tiny

from adem_vl_hf import demo
from adem_vl_hf.loading import build_model


@pytest.mark.parametrize(("kind", "title"), [("adem_vl", "ADEM-VL on OpenMoji"), ("evlm", "EVLM on OpenMoji")])
def test_the_story_of_either_model(bases, tmp_path, monkeypatch, kind, title):
    elsewhere = []

    def build(language_model, vision_tower, *arguments, **settings):
        model, processor = build_model(str(bases / "llama"), str(bases / "clip"), *arguments)
        return tiny.perturb(model, std=0.1), processor

    def caption_elsewhere(folder, scenes):
        elsewhere.append(json.loads((folder / "config.json").read_text())["model_type"])
        return [("scene-0.png", "a cat", ["a dog"])]

    monkeypatch.setattr(demo, "build_model", build)
    monkeypatch.setattr(demo, "embedded_language_model", lambda: None)
    monkeypatch.setattr(demo, "fastest_setting", dict)
    monkeypatch.setattr(demo, "caption_elsewhere", caption_elsewhere)
    monkeypatch.setattr(demo, "BATCH_SIZE", 4)
    sizes = ["--steps", "1", "--test-scenes", "6", "--test-names", "2", "--output-dir", str(tmp_path)]
    demo.main([*sizes, "--model", kind])
    assert elsewhere == [kind]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert f"<h1>{title}</h1>" in page
    assert ("2407.14177" in page) == (kind == "evlm")
    for name in demo.RECIPES[kind].shown:
        assert f"<dt>{name}</dt>" in page
    rows = (tmp_path / "predictions/openmoji-scenes-true.jsonl").read_text(encoding="utf-8").splitlines()
    answered = any(json.loads(row)["prediction"] for row in rows)
    for parts in ("scales", "levels"):
        assert (f"all {parts} together" in page) == (answered and (parts == "levels") == (kind == "evlm"))
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 1
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {"openmoji-scenes", "openmoji-names"}


def test_every_model_has_a_recipe_that_fits_it(bases):
    for kind, recipe in demo.RECIPES.items():
        model, _ = build_model(str(bases / "llama"), str(bases / "clip"), kind, **recipe.settings)
        assert model.config.model_type == kind
        assert all(hasattr(model.config, field) for field in recipe.shown.values())
