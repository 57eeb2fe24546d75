"""Where a word comes from: the map is the slope of the word's log-probability, and things are where they are drawn."""

import pytest
import scripts
import tiny
import torch
from PIL import Image

from adem_vl_hf import AdemVLProcessor
from adem_vl_hf.data import OpenMojiScenes

ANSWER = " a cat on the grass"


@pytest.fixture
def looks(tmp_path, monkeypatch):
    """The script, with its result file and figure elsewhere."""
    script = scripts.load("benchmarks/where_it_looks.py")
    monkeypatch.setattr(script.tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script.tables, "ROOT", tmp_path)
    monkeypatch.setattr(script, "FIGURE", tmp_path / "figures" / "looks.png")
    return script


@pytest.fixture
def loaded(bases):
    """A small model that shows its images, and its processor."""
    model = tiny.build(bases, visual_token_counts=[16, 4], drop_ratio=0.25).eval()
    return model, AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)


def test_the_effect_is_the_slope_of_the_log_probability(looks, loaded):
    """Turning one slot's value up by a little, in all layers, changes the word's log-probability by so much."""
    model, processor = loaded
    image = tiny.picture()
    found = looks.effects_on_words(model, processor, image, ANSWER, ("cat", "grass", "dog"))
    assert {word: grid.shape for word, grid in found.items()} == {"cat": (4, 4), "grass": (4, 4)}
    batch, positions, tokens = looks.pass_over_answer(model, processor, image, looks.CAPTION_PROMPT, ANSWER)
    memory = model.get_visual_memory(batch.pop("pixel_values"), batch.pop("image_mask"))
    memory.pop("image_hidden_states")
    # one place of the fine scale, and a quarter of the coarse one's slot above it
    place, small = (2, 1), 1e-3
    weights = torch.zeros(20)
    weights[2 * 4 + 1], weights[16 + 2] = 1, 0.25
    targets = batch["input_ids"][0, positions + 1]
    group = dict(looks.words_of(tokens))["cat"]

    @torch.no_grad()
    def log_probability(turned: float) -> float:
        value = memory["visual_value"] * (1 + turned * weights)[:, None]
        logits = model(**batch, **(memory | {"visual_value": value}), use_cache=False).logits[0, positions]
        return logits.double().log_softmax(-1)[group, targets[group]].sum().item()

    slope = (log_probability(small) - log_probability(-small)) / (2 * small)
    assert abs(slope) > 1e-2
    assert found["cat"][place].item() == pytest.approx(slope, rel=1e-2)


def test_a_thing_is_where_it_was_drawn(looks):
    data = OpenMojiScenes("test", 40, kinds=("caption",))
    sides = {"left of": (slice(None), slice(0, 4)), "above": (slice(0, 4), slice(None))}
    checked = 0
    for index in looks.of_two_kinds(data):
        scene, *_ = data.scene(index)
        first, second = (looks.places_of(data, index, group.name, 8) for group in scene.groups)
        assert not (first & second).any()
        if scene.relation in sides:
            half = sides[scene.relation]
            assert first[half].sum() == first.sum() > 0
            assert second[half].sum() == 0 < second.sum()
            checked += 1
    assert checked > 5


def test_it_is_measured_and_drawn(looks, loaded, monkeypatch):
    monkeypatch.setattr(looks, "load_checkpoint", lambda **settings: loaded)
    # of the measurement, then of the figure; None stands for a true caption
    said = iter([None, "two owls", "nonsense", None, "two owls", None])

    def caption(model, processor, sample):
        return next(said) or sample["references"][0]

    monkeypatch.setattr(looks, "caption", caption)
    scripts.call(looks, monkeypatch, "--scenes", 2)
    saved = looks.tables.load("where_it_looks")
    assert (saved["scenes"], saved["words"]) == (2, 4)
    assert saved["captions"] == dict.fromkeys(looks.PARTS, 0.5)
    for name in ("effect", "score"):
        assert 0 <= saved[name]["own_thing_higher"] <= 1
        assert sum(saved[name]["highest_place"].values()) == pytest.approx(1)
    assert "4 words of 2 scenes" in looks.sections()["where it looks"]
    assert list(said) == []  # two exact captions and the first one that is not
    with Image.open(looks.FIGURE) as figure:
        assert figure.width > 600


def test_the_figure_of_the_pages_is_small_enough():
    assert (scripts.ROOT / "docs" / "figures" / "where_it_looks.png").stat().st_size <= 300_000
