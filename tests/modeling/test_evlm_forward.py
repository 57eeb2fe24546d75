"""EVLM's forward: what sees what, and what trains."""

import copy

import evlm
import pytest
import tiny
import torch
from closeness import assert_close
from tiny import IMAGE_TOKEN_ID

from adem_vl_hf import EvlmForConditionalGeneration
from adem_vl_hf.modeling.image_inputs import ImageRows

pytestmark = [pytest.mark.core, pytest.mark.kernels]


@pytest.fixture(scope="module")
def model(bases):
    return evlm.build(bases)


def bare(language_model, model, inputs) -> torch.Tensor:
    """A language model alone, with the media tokens at the images' places in the first ``n * m`` positions."""
    embeds = language_model.get_input_embeddings()(inputs["input_ids"])
    media = model.adapter.media_tokens if model.config.media_tokens else None
    for row, number in enumerate(inputs["image_mask"].sum(1).tolist()):
        places = (inputs["input_ids"][row] == IMAGE_TOKEN_ID).nonzero().flatten()
        if media is not None:
            embeds[row, places] = media.repeat(number, 1)
    return language_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"moe_replicas": 2}, {"media_tokens": 0}, {"zero_vectors": 0}], ids=str)
def test_gates_at_zero_leave_the_language_model_as_it_is(bases, fields):
    model = evlm.fresh(bases, **fields)
    inputs = evlm.batch(tokens=model.config.image_tokens)
    logits = model(**inputs).logits
    assert torch.equal(logits, bare(model.language_model, model, inputs))
    assert_close(logits, bare(tiny.language_model(bases), model, inputs))  # as it was saved


@torch.no_grad()
@pytest.mark.parametrize("mask_mode", ["previous_image", "all_frames"])
@pytest.mark.parametrize("zero_vectors", [0, 1, 3])
def test_text_before_the_first_image_is_untouched_bit_for_bit(bases, mask_mode, zero_vectors):
    model = evlm.build(bases, mask_mode=mask_mode, zero_vectors=zero_vectors)
    inputs = evlm.batch()
    seeing, blind = model(**inputs).logits, bare(model.language_model, model, inputs)
    for row, number in enumerate(evlm.NUMBERS):
        length = int(inputs["attention_mask"][row].sum())
        before = 2 if number else length
        assert torch.equal(seeing[row, :before], blind[row, :before])
        if number:
            assert (seeing[row, before:length] - blind[row, before:length]).abs().amax(-1).min() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"mask_mode": "all_frames"}, {"moe_replicas": 2}, {"media_tokens": 0}], ids=str)
def test_a_batch_is_each_row_alone(bases, fields):
    model = evlm.build(bases, frame_embeddings=3, **fields)
    inputs = evlm.batch(tokens=model.config.image_tokens)
    together = model(**inputs).logits
    for row in range(len(evlm.NUMBERS)):
        logits = model(**evlm.alone(inputs, row)).logits[0]
        assert_close(together[row, : len(logits)], logits)


@torch.no_grad()
def test_text_sees_the_previous_image_or_all_frames(bases):
    """One decoder layer: what the media tokens saw cannot reach the text by another way in its first position."""
    inputs = evlm.alone(evlm.batch(), 3)  # words, then (image, word) three times
    words = [2 + (evlm.TOKENS + 1) * (i + 1) - 1 for i in range(3)]  # the word behind each image
    assert all(inputs["input_ids"][0, at] != IMAGE_TOKEN_ID for at in words)
    for mode, expected in (("previous_image", torch.eye(3)), ("all_frames", torch.ones(3, 3))):
        model = evlm.build(bases, mask_mode=mode)
        seen = torch.zeros(3, 3)  # which word feels a change of which image, in the first cross-attention layer
        taken = {}
        layer = model.adapter.cross_attention[0]
        handle = layer.register_forward_hook(lambda module, args, output, taken=taken: taken.update(out=output))
        model(**inputs)
        before = taken["out"]
        for image in range(3):
            pixels = inputs["pixel_values"].clone()
            pixels[:, image] += 1
            model(**inputs | {"pixel_values": pixels})
            seen[:, image] = ((taken["out"] - before)[0, words].abs().amax(-1) > 1e-5).float()
            media = [i * (evlm.TOKENS + 1) + 2 for i in range(3)]
            changed = (taken["out"] - before)[0, media].abs().amax(-1) > 1e-5
            assert changed.tolist() == [i == image for i in range(3)]  # its own image alone, whatever the mode
        handle.remove()
        assert torch.equal(seen, expected)


@torch.no_grad()
def test_a_row_that_is_a_video_sees_all_frames(bases):
    inputs = evlm.batch()
    videos = torch.tensor([False, False, False, True])
    model, whole = evlm.build(bases), evlm.build(bases, mask_mode="all_frames")
    mixed, images, frames = model(**inputs, video_mask=videos).logits, model(**inputs).logits, whole(**inputs).logits
    assert_close(mixed[:3], images[:3])
    length = int(inputs["attention_mask"][3].sum())
    assert_close(mixed[3, :length], frames[3, :length])
    assert (mixed[3] - images[3]).abs().max() > 1e-3


@pytest.mark.parametrize("fields", [{}, {"moe_replicas": 2, "frame_embeddings": 3}], ids=["dense", "experts"])
def test_every_trained_tensor_gets_a_gradient_and_no_other(bases, fields):
    model = evlm.build(bases, **fields).train()
    model(**evlm.batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith("adapter.")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


def test_a_batch_without_images_trains_without_an_effect(bases):
    model = evlm.build(bases).train()
    inputs = evlm.alone(evlm.batch(), 1)
    model(**inputs).loss.backward()
    assert all(not p.grad.any() for p in model.adapter.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in model.adapter.parameters())


def test_checkpointing_and_a_second_forward_leave_gradients_as_they_are(bases):
    model = evlm.build(bases, moe_replicas=2).train()
    inputs, other = evlm.batch(), evlm.batch([1, 1])
    model(**inputs).loss.backward()
    expected = tiny.gradients(model)
    loss = model(**inputs).loss
    model(**other)
    loss.backward()
    assert_close(tiny.gradients(model), expected)
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")()
    model(**inputs).loss.backward()
    assert_close(tiny.gradients(model), expected)


@torch.no_grad()
def test_levels_go_to_their_layers(bases):
    """A change of one level's hidden states reaches the layers that the map sends it to."""
    model = evlm.build(bases, vision_feature_layer=[1, 2, 3], level_map=[2, 0, 1])
    features = torch.randn(1, 3, 17, tiny.VISION_WIDTH)
    key, value, *_ = model.adapter(features, ImageRows(None, None, 1))
    for level in range(3):
        moved = features.clone()
        moved[:, level] += torch.randn(17, tiny.VISION_WIDTH)
        key_moved, value_moved, *_ = model.adapter(moved, ImageRows(None, None, 1))
        for before, after in ((key, key_moved), (value, value_moved)):
            changed = ((after - before).abs().amax((0, 2, 3)) > 1e-5).tolist()
            assert changed == [wanted == level for wanted in (2, 0, 1)]
    together = evlm.build(bases, vision_feature_layer=[1, 3], level_fusion="concatenate")
    assert together.adapter.cross_attention[0].k_proj.in_features == 2 * tiny.VISION_WIDTH
    features = torch.randn(1, 2, 17, tiny.VISION_WIDTH)
    before = together.adapter(features, ImageRows(None, None, 1))[0]
    features[:, 0] += torch.randn(17, tiny.VISION_WIDTH)
    assert ((together.adapter(features, ImageRows(None, None, 1))[0] - before).abs().amax((0, 2, 3)) > 1e-5).all()


@torch.no_grad()
def test_the_levels_are_the_towers_hidden_states(model):
    pixels = tiny.pictures(2)
    hidden = model.vision_tower(pixels, output_hidden_states=True).hidden_states
    features = model.get_image_features(pixels).pooler_output
    for i, layer in enumerate(model.config.vision_feature_layer):
        assert torch.equal(features[:, i], hidden[layer])


@torch.no_grad()
def test_a_cross_attention_layer_every_n_layers(bases):
    model = evlm.build(bases, cross_attention_interval=2)
    assert len(model.adapter.cross_attention) == 2  # before the decoder layers 0 and 2
    inputs = evlm.batch()
    states = model(**inputs, output_hidden_states=True).hidden_states
    blind = copy.deepcopy(model)
    blind.adapter.cross_attention[0].attn_gate.zero_()
    blind.adapter.cross_attention[0].ffn_gate.zero_()
    others = blind(**inputs, output_hidden_states=True).hidden_states
    assert (states[1] - others[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": torch.tensor([[1, 4, 4, 4, 8]])}, "row 0 has 2 images and 3 image tokens"),
        ({"input_ids": torch.tensor([[1, 7, 7, 7, 8]])}, "row 0 has 2 images and no image token"),
        ({"image_mask": torch.tensor([[False, True]])}, "image_mask has a gap"),
    ],
)
def test_images_without_their_tokens_are_refused(model, change, message):
    inputs = {"input_ids": torch.tensor([[1, 4, 4, 4, 4, 8]]), "pixel_values": tiny.pictures(2)[None]}
    assert model(**inputs).logits.isfinite().all()
    with pytest.raises(ValueError, match=message):
        model(**inputs | change)


def test_it_is_built_and_saved_without_bases(bases, tmp_path, model):
    config = copy.deepcopy(model.config)
    config.text_model_name_or_path = config.vision_model_name_or_path = None
    whole = tiny.perturb(EvlmForConditionalGeneration(config)).eval()
    whole.save_pretrained(tmp_path)
    again = EvlmForConditionalGeneration.from_pretrained(tmp_path)
    inputs = evlm.batch()
    with torch.no_grad():
        assert_close(again(**inputs).logits, whole(**inputs).logits)
