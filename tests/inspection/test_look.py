"""Where words come from: contributions are slopes of log-probabilities, and the arrays belong to words and images."""

import evlm
import numpy as np
import pytest
import tiny
import torch
from closeness import assert_close
from PIL import Image

from adem_vl_hf import AdemVLProcessor, EvlmProcessor
from adem_vl_hf.inspection import look
from adem_vl_hf.inspection.answer_pass import encode_answer, pass_over_answer, take_memory, words_of
from adem_vl_hf.inspection.attended_patches import attended_patches
from adem_vl_hf.inspection.contributions import by_place, contributions_in_pass
from adem_vl_hf.inspection.kept_tokens import kept_visual_tokens
from adem_vl_hf.inspection.look import overlay

PROMPT, ANSWER = "a photo of", " a zebra on the sea"


@pytest.fixture(scope="module")
def adem_vl(bases):
    model = tiny.build(bases, visual_token_counts=[16, 4], drop_ratio=0.25)
    return model, AdemVLProcessor.from_base_pretrained(bases / "llama", bases / "clip", model.config)


@pytest.fixture(scope="module")
def of_evlm(bases):
    """An EVLM of three layers, of which the first and the last read the same level."""
    model = evlm.build(bases, vision_feature_layer=[1, 3], level_map=[0, 1, 0], zero_vectors=2)
    return model, EvlmProcessor.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), model.config)


@pytest.mark.parametrize("loaded", ["adem_vl", "of_evlm"])
def test_contributions_are_the_slope_of_the_log_probability(loaded, request):
    """Turning the value of one slot up by a little changes the log-probability of the word by so much."""
    model, processor = request.getfixturevalue(loaded)
    batch, positions, tokens = pass_over_answer(model, processor, tiny.picture(), PROMPT, ANSWER)
    words = [group for _, group in words_of(tokens)]
    found, log_probabilities = contributions_in_pass(model, batch, positions, words)
    assert "pixel_values" in batch  # it stays as it was
    memory, targets = take_memory(model, batch), batch["input_ids"][0, positions + 1]
    value, word, small = memory["visual_value"], 1, 1e-2

    @torch.no_grad()
    def log_probability(place: tuple, turned: float) -> float:
        changed = value.clone()
        changed[0][place] *= 1 + turned
        logits = model(**batch, **(memory | {"visual_value": changed}), use_cache=False).logits[0, positions]
        return logits.double().log_softmax(-1)[words[word], targets[words[word]]].sum().item()

    place = np.unravel_index(int(found[word].abs().argmax()), found[word].shape)
    slope = (log_probability(place, small) - log_probability(place, -small)) / (2 * small)
    assert abs(slope) > 1e-3
    assert found[word][place].item() == pytest.approx(slope, rel=2e-2)
    assert log_probabilities[word].item() == pytest.approx(log_probability(place, 0), rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_tokens_are_grouped_into_words():
    assert words_of([" a", " zeb", "ra", " on", " red"]) == [
        ("a", [0]), ("zebra", [1, 2]), ("on", [3]), ("red", [4])
    ]  # fmt: skip
    assert words_of(["ze", "bra", " "]) == [("zebra", [0, 1]), ("␣", [2])]


def test_a_coarse_slot_is_shared_out_among_the_places_that_it_covers():
    fine, coarse = torch.arange(16.0).view(4, 4), torch.arange(16.0, 20).view(2, 2)
    grid = by_place([coarse, fine])
    assert_close(grid.sum(), fine.sum() + coarse.sum())
    for place, expected in (((0, 0), 0 + 16 / 4), ((1, 2), 6 + 17 / 4), ((3, 1), 13 + 18 / 4)):
        assert_close(grid[place], torch.tensor(expected))
    # sides that do not divide each other: the middle of the three is half in each half
    uneven = by_place([torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.zeros(3, 3)])
    assert_close(uneven.sum(0), torch.tensor([2 / 3, 4 / 3, 2.0]))


def test_scales_of_adem_vl(adem_vl):
    model, processor = adem_vl
    found = look(model, processor, tiny.picture(), PROMPT, "a zebra on the sea")
    assert found.words == ["a", "zebra", "on", "the", "sea"]
    assert "".join(token for word in found.tokens for token in word) == ANSWER
    assert any(len(word) > 1 for word in found.tokens)  # a word of several tokens is one choice
    assert [part.name for part in found.parts] == ["4 × 4", "2 × 2"]
    assert [part.contribution.shape for part in found.parts] == [(5, 1, 4, 4), (5, 1, 2, 2)]
    kept = kept_visual_tokens(model, processor, tiny.picture(), PROMPT, ANSWER)
    tokens = dict(words_of(kept.tokens))["sea"]
    for part, grid in zip(found.parts, kept.grids(kept.kept_by_token), strict=True):
        assert_close(torch.from_numpy(part.used[4, 0]), grid[tokens].mean(0))
    whole = sum(part.contribution.sum((2, 3)) for part in found.parts)
    assert_close(torch.from_numpy(found.contribution.sum((2, 3))), torch.from_numpy(whole))
    assert np.abs(found.contribution).max() > 1e-3
    assert not found.class_token.any()


def test_levels_of_evlm(of_evlm):
    model, processor = of_evlm
    found = look(model, processor, tiny.picture(), PROMPT, ANSWER)
    assert [part.name for part in found.parts] == ["level 1, block 1", "level 2, block 3"]
    batch, positions, tokens = pass_over_answer(model, processor, tiny.picture(), PROMPT, ANSWER)
    slots, _ = contributions_in_pass(model, batch, positions, [group for _, group in words_of(tokens)])  # [W, 3, S]
    first = slots[:, [0, 2], 1:17].sum(1).view(-1, 4, 4)
    assert_close(torch.from_numpy(found.parts[0].contribution[:, 0]), first)
    assert_close(torch.from_numpy(found.class_token), slots[:, :, 0].sum(1))
    assert not slots[:, :, 17:].any()  # nothing comes from the zero vectors
    attended = attended_patches(model, processor, tiny.picture(), PROMPT, ANSWER)
    mean = (2 * found.parts[0].used + found.parts[1].used)[:, 0] / 3  # two layers read the first level
    tokens = dict(words_of(attended.tokens))["sea"]
    assert_close(torch.from_numpy(mean[4]), attended.patches_by_token[tokens].mean(0).view(4, 4))


@pytest.mark.parametrize("loaded", ["adem_vl", "of_evlm"])
def test_several_images_and_the_turns_of_a_chat(loaded, request):
    model, processor = request.getfixturevalue(loaded)
    images = [tiny.picture(), Image.new("RGB", (16, 16), "teal")]
    chat = [{"role": "user", "content": "<image><image>Which?"}]
    found = look(model, processor, images, chat, "the sea")
    assert (found.words, found.prompt) == (["the", "sea"], "<image><image>Which?")
    assert found.contribution.shape == (2, 2, 4, 4)
    assert found.images[1].getpixel((0, 0)) == (0, 128, 128)
    assert np.abs(found.contribution[:, 0] - found.contribution[:, 1]).max() > 1e-4
    # the order of the slots: what is measured in the second image changes with the second image alone
    batch, _positions, tokens = encode_answer(model, processor, {"images": images}, chat, "the sea")
    assert batch["pixel_values"].shape[:2] == (1, 2)
    assert "".join(tokens).split() == found.words
    video = {"videos": [[image.resize((16, 16)) for image in images]]}
    assert look(model, processor, video, PROMPT, ANSWER).contribution.shape == (5, 2, 4, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_answer_is_generated_and_the_model_left_as_it_was(adem_vl, training):
    model, processor = adem_vl
    model.train(training)
    try:
        found = look(model, processor, tiny.picture(), PROMPT, max_new_tokens=5)
    finally:
        assert model.training is training
        model.eval()
    assert found.answer.split() == [word for word in found.words if word != "␣"]


def test_neither_inference_mode_nor_what_a_checkpoint_saves_for_generation_matters(adem_vl, monkeypatch):
    model, processor = adem_vl
    expected = look(model, processor, tiny.picture(), "a photo of", max_new_tokens=3)
    monkeypatch.setattr(model.generation_config, "return_dict_in_generate", True)
    monkeypatch.setattr(model.generation_config, "stop_strings", ["no such word"])
    monkeypatch.setattr(model.generation_config, "num_return_sequences", 3)
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    with torch.inference_mode():
        found = look(model, processor, tiny.picture(), "a photo of", max_new_tokens=3)
    assert found.answer == expected.answer
    np.testing.assert_array_equal(found.contribution, expected.contribution)


def test_the_figure_has_a_row_for_each_word(adem_vl):
    found = look(*adem_vl, tiny.picture(), PROMPT, ANSWER)
    figure = found.figure(["zebra", "sea"])
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == [f"“{word}”, {name}" for word in ("zebra", "sea") for name in ("together", "4 × 4", "2 × 2")]
    drawn = figure.axes[1].images[1].get_array()  # the scale of 4 x 4
    part = found.parts[0].contribution[1]
    assert np.array_equal(drawn, overlay(part[0], np.abs(part).max()))
    assert len(found.figure().axes) == 15
    with pytest.raises(ValueError, match="'dog' is no word of the answer 'a zebra on the sea'"):
        found.figure(["dog"])


def test_colours_have_the_sign():
    pixels = overlay(np.array([[2.0, -1.0], [0.0, 4.0]]), 2.0)
    assert pixels[0, 0, 0] > pixels[0, 0, 2]
    assert pixels[0, 1, 2] > pixels[0, 1, 0]
    assert pixels[..., 3].tolist() == [[217, 108], [0, 217]]


def test_errors_name_what_is_missing(adem_vl):
    with pytest.raises(ValueError, match="there is no image to look at"):
        look(*adem_vl, [], PROMPT)
    with pytest.raises(ValueError, match="the answer is empty"):
        look(*adem_vl, tiny.picture(), PROMPT, " ")
