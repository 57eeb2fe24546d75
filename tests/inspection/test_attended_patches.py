"""Where an EVLM looks: the weights are those that its layers really use, and the model is left as it was."""

import evlm
import pytest
import tiny
import torch
from closeness import assert_close
from PIL import Image

from adem_vl_hf import EvlmProcessor
from adem_vl_hf.inspection.attended_patches import attended_patches
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

PROMPT, ANSWER = "a photo of", " a cat on the sea"


def processor_for(model, bases) -> EvlmProcessor:
    return EvlmProcessor.from_base_pretrained(str(bases / "llama"), str(bases / "clip"), model.config)


def of_whole_row(found) -> torch.Tensor:
    """[T, S], the slots in the order of the memory."""
    zero = found.zero_by_token[:, None]
    return torch.cat([found.class_by_token[:, None], found.patches_by_token, zero], dim=1)


def test_one_layer_mixed_the_values_with_these_weights(bases, tmp_path):
    tiny.save_llama(tmp_path / "llama", num_hidden_layers=1)
    (tmp_path / "clip").symlink_to(bases / "clip")
    model = evlm.build(tmp_path)
    assert model.config.cross_attention_dim == model.config.cross_attention_head_dim  # one head is its own mean
    processor = processor_for(model, tmp_path)
    mixed = []
    handle = model.adapter.cross_attention[0].o_proj.register_forward_pre_hook(
        lambda module, args: mixed.append(args[0])
    )
    found = attended_patches(model, processor, tiny.picture(), PROMPT, ANSWER)
    handle.remove()
    inputs = processor(images=[tiny.picture()], text=[PROMPT], suffix=[ANSWER])
    answer = (inputs["labels"][0] != NOT_SUPERVISED).nonzero().flatten()[:-1]
    with torch.no_grad():
        value = model.get_visual_memory(inputs["pixel_values"], inputs["image_mask"])["visual_value"][0, 0]  # [S, W]
    assert_close(of_whole_row(found) @ value, mixed[0][0, answer - 1])
    assert found.patches_by_token.shape == (len(found.tokens), 16)
    assert found.patches_by_token.std() > 1e-3  # some patches have clearly more than others


def test_the_mean_over_layers_and_heads(bases, monkeypatch):
    model = evlm.build(bases, cross_attention_ratio=0.5, zero_vectors=3)
    slots, used = 17 + 3, []
    attend = torch.nn.functional.scaled_dot_product_attention

    def record(query, key, value, attn_mask=None, **kwargs):
        if key.shape[2] == slots:
            scores = (query @ key.transpose(2, 3)) / query.shape[-1] ** 0.5
            used.append(torch.exp(scores) * attn_mask)
        return attend(query, key, value, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", record)
    found = attended_patches(model, processor_for(model, bases), tiny.picture(), PROMPT, ANSWER)
    assert [tuple(weights.shape[:2]) for weights in used] == [(1, 2)] * 3  # three layers of two heads
    weights = torch.cat([weights / weights.sum(-1, keepdim=True) for weights in used]).mean((0, 1))
    tokens = len(found.tokens)
    expected = weights[-tokens - 2 : -2]  # before the end of sequence, and the position that predicts it
    assert_close(found.class_by_token, expected[:, 0])
    assert_close(found.patches_by_token, expected[:, 1:17])
    assert_close(found.zero_by_token, expected[:, 17:].sum(1))
    assert_close(of_whole_row(found).sum(1), torch.ones(tokens))
    (grid,) = found.grids(found.patches_by_token)
    assert grid.shape == (tokens, 4, 4)
    assert torch.equal(grid[0, 1], found.patches_by_token[0, 4:8])


def test_without_zero_vectors_everything_goes_to_the_picture(bases):
    model = evlm.build(bases, zero_vectors=0, train_vision_blocks=1)
    found = attended_patches(model, processor_for(model, bases), tiny.picture(), PROMPT, ANSWER)
    assert not found.zero_by_token.any()
    assert_close(found.class_by_token + found.patches_by_token.sum(1), torch.ones(len(found.tokens)))


@pytest.fixture(scope="module")
def model(bases):
    return evlm.build(bases)


def test_other_pictures_give_other_maps_and_tokens_join_to_the_answer(model, bases):
    processor = processor_for(model, bases)
    first, again, other = (
        attended_patches(model, processor, picture, PROMPT, ANSWER)
        for picture in (tiny.picture(), tiny.picture(), Image.new("RGB", (16, 16), "teal"))
    )
    assert "".join(first.tokens) == ANSWER
    assert torch.equal(first.patches_by_token, again.patches_by_token)
    assert not torch.allclose(first.patches_by_token, other.patches_by_token, atol=1e-3)
    assert (first.image.mode, first.image.size) == ("RGB", (16, 16))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(bases, monkeypatch, training):
    model = evlm.build(bases).train(training)
    processor = processor_for(model, bases)
    attended_patches(model, processor, tiny.picture(), PROMPT, ANSWER)
    assert model.training is training

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.language_model, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        attended_patches(model, processor, tiny.picture(), PROMPT, ANSWER)
    assert model.training is training
    assert not any(layer._forward_pre_hooks for layer in model.adapter.cross_attention)


def test_errors_name_what_is_missing(model, bases):
    processor = processor_for(model, bases)
    with pytest.raises(ValueError, match="image is None"):
        attended_patches(model, processor, None, PROMPT, ANSWER)
    with pytest.raises(ValueError, match="answer ' ' leaves nothing"):
        attended_patches(model, processor, tiny.picture(), PROMPT, " ")
