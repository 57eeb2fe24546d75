"""The page about words: escaped, self-contained, without scripts; a button and maps for each word."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from PIL import Image

from adem_vl_hf.cli.parser import main
from adem_vl_hf.inspection.look import Look, Part, overlay
from adem_vl_hf.inspection.look_page import look_page, write_look_page
from adem_vl_hf.inspection.maps import word_maps

NASTY = '<script>alert(1)</script>"&'


def made(kind: str = "adem_vl", images: int = 1) -> Look:
    words = ["a", NASTY, "sea"]
    rng = np.random.default_rng(0)
    parts = [
        Part(name, rng.normal(size=(3, images, side, side)), rng.random((3, images, side, side)))
        for name, side in (("4 × 4", 4), ("2 × 2", 2))
    ]
    return Look(
        kind=kind,
        prompt=NASTY,
        answer=" ".join(words),
        words=words,
        tokens=[[" a"], [" <scr", NASTY], [" sea"]],
        log_probabilities=np.log([0.5, 0.25, 0.125]),
        images=[Image.new("RGB", (8, 8), "teal")] * images,
        parts=parts,
        contribution=parts[0].contribution,
        class_token=np.array([0.0, 0.25, 0.0]),
    )


def test_it_is_escaped_and_fetches_nothing(tmp_path):
    page = write_look_page(tmp_path / "new" / "look.html", made(), NASTY).read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert not re.search(r"https?://|@import|url\(", page)


@pytest.mark.parametrize(("nats", "paler"), [(8.0, 1.0), (0.125, 1.0), (0.05, 2.0), (0.0, 1.0)])
def test_a_word_that_owes_the_image_nothing_is_pale(nats, paler):
    grid = np.full((1, 1, 4, 4), nats / 16)
    grid[0, 0, 0, 0] *= -1
    nothing = np.zeros((1, 1, 2, 2))
    parts = [Part("4 × 4", grid, np.abs(grid)), Part("2 × 2", nothing, nothing)]
    look = replace(made(), words=["a"], parts=parts, contribution=grid)
    drawn = word_maps(look, 0, 0)[1]["map"]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))))
    assert np.array_equal(seen, overlay(grid[0, 0], nats / 16 * paler))


def test_an_unlikely_word_is_not_impossible():
    page = look_page(replace(made(), log_probabilities=np.array([-20.0, -0.1, -1.0])), "title")
    assert "probability below 0.1 %" in page
    assert "0.0 %" not in page


def test_a_button_and_maps_for_each_word():
    look = made(images=2)
    page = look_page(look, "title")
    buttons = re.findall(r'<input type="radio" name="word" id="w(\d)"( checked)?>', page)
    assert buttons == [("0", ""), ("1", " checked"), ("2", "")]  # "a" says little, so another word comes first
    assert page.count("main:has(#w") == 3
    sections = re.findall(r'<section class="word w\d">(.*?)</section>', page, re.S)
    assert len(sections) == 3
    for place, section in enumerate(sections):
        maps = re.findall(r'class="map" src="data:image/png;base64,([^"]*)"', section)
        assert len(maps) == 2 * (1 + 2 * 2)  # images x (together, two scales, each with what it kept)
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(maps[1]))))
        largest = max(np.abs(part.contribution[place]).max() for part in look.parts)
        assert np.array_equal(decoded, overlay(look.parts[0].contribution[place, 0], largest))
    assert "probability 25.0 %, of 2 tokens together" in sections[1]
    # the answer alone has its own direction: its legend is English
    assert re.search(r'</legend>\s*<div class="words" dir="auto">\s*<label>', page)
    assert "Kept, 4 × 4" in sections[0]
    assert "Image 2 of 2" in sections[0]


def test_a_single_scale_is_shown_once():
    look = made()
    single = replace(look, parts=look.parts[:1])
    sections = re.findall(r'<section class="word w\d">(.*?)</section>', look_page(single, "title"), re.S)
    assert [section.count('class="map"') for section in sections] == [2, 2, 2]
    assert sections[0].count("<strong>Contribution, 4 × 4</strong>") == 1
    assert "<strong>Kept, 4 × 4</strong>" in sections[0]
    assert "together" not in sections[0]
    assert [axis.get_title() for axis in single.figure(["sea"]).axes] == ["“sea”, 4 × 4"]


def test_levels_are_called_levels_and_nothing_is_said_to_be_kept():
    page = look_page(made("evlm"), "title")
    assert "all levels together" in page
    assert "+0.25 nats" in page
    assert "Kept" not in page
    assert "Attention, 4 × 4" in page


@pytest.mark.slow
def test_the_command_writes_the_page(bases, tmp_path, capsys):
    tiny.build(bases).save_pretrained(tmp_path / "run")
    from adem_vl_hf import AdemVLConfig, AdemVLProcessor

    config = AdemVLConfig.from_pretrained(tmp_path / "run")
    processor = AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", config)
    processor.prompt = "a photo of"
    processor.save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "processor_config.json").read_text())["prompt"] == "a photo of"
    tiny.picture().save(tmp_path / "one.png")
    argv = ["look", str(tmp_path / "one.png"), "--checkpoint", str(tmp_path / "run"), "-o", str(tmp_path / "l.html"),
            "--answer", "a cat"]  # fmt: skip
    assert main(argv) == 0
    said = capsys.readouterr()
    assert said.out.startswith("a cat\n")
    assert "pictograms" not in said.err
    page = (tmp_path / "l.html").read_text(encoding="utf-8")
    assert "<title>one.png</title>" in page
    assert '<p class="prompt" dir="auto">a photo of</p>' in page
    assert main([*argv[:-3], str(tmp_path), "--answer", "a cat"]) == 2
    assert "is a folder" in capsys.readouterr().err
