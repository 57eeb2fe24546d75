"""Decoder families: the fused term stands where the paper puts it, and everything works on each of them."""

import families
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.fusion import fuse

pytestmark = [pytest.mark.core, pytest.mark.kernels]
STEPS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.fixture(scope="module", params=families.parameters(families.FAMILIES))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return tiny.build(families.save_bases(folder, request.param))


@pytest.fixture(scope="module")
def inputs():
    return tiny.batch([9, 6, 8], [True, False, True], side="left")


def test_each_layer_adds_the_fused_term_of_its_mlp_input(family, inputs):
    """Equation 9: out = layer(x) + drop(phi(mlp's input) @ key^T) @ value, with the layer's own norms and scales."""
    memory = family.get_visual_memory(inputs["pixel_values"], inputs["image_mask"])
    key, value = memory["visual_key"], memory["visual_value"]
    seen = []

    def watch(layer, args, kwargs, output):
        queries = []
        hook = layer.mlp.register_forward_pre_hook(lambda module, given: queries.append(given[0]))
        del kwargs["visual_memory"]
        plain = type(layer).__bases__[-1].forward(layer, *args, **kwargs)  # the family's own
        hook.remove()
        plain, output = tiny.first(plain), tiny.first(output)
        expected = plain + fuse(queries[0], key, value, "silu", family.config.drop_ratio)
        assert_close(output, expected)
        assert (output - plain).abs().max() > 1e-3
        seen.append(layer)

    layers = family.get_decoder().layers
    hooks = [layer.register_forward_hook(watch, with_kwargs=True) for layer in layers]
    with torch.no_grad():
        family(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    assert seen == list(layers)


def test_the_adapter_trains_and_the_family_stays_frozen(family, inputs):
    family.train()
    family(**inputs).loss.backward()
    found = tiny.gradients(family)
    family.eval()
    assert set(found) == set(family.adapter_state_dict())
    assert all(tensor.isfinite().all() and tensor.abs().max() > 0 for tensor in found.values())


def test_the_loss_is_the_same_on_supervised_positions_alone(family, inputs):
    with torch.no_grad():
        expected = family(**inputs).loss
        family.train()
        found = family(**inputs).loss
        family.eval()
    assert_close(found, expected)


def test_generation_sees_the_picture_with_and_without_the_cache(family, inputs):
    prompt = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    cached = family.generate(**prompt, **STEPS, return_dict_in_generate=True, output_logits=True)
    uncached = family.generate(**prompt, **STEPS, use_cache=False)
    assert torch.equal(cached.sequences, uncached)
    other = prompt | {"pixel_values": tiny.pictures(3, seed=8)}
    other = family.generate(**other, **STEPS, return_dict_in_generate=True, output_logits=True)
    for step in (0, 1):
        change = (cached.logits[step] - other.logits[step]).abs().amax(1)
        assert (change > 1e-3).tolist() == [True, False, True]


def test_a_batch_gives_what_each_row_gives_alone(family, inputs):
    with torch.no_grad():
        together = family(**inputs).logits
        for index in range(3):
            one = tiny.row(inputs, index)
            alone = family(**one).logits[0]
            kept = inputs["attention_mask"][index].bool()
            assert_close(together[index][kept], alone)


def test_the_checkpoint_holds_the_adapter_and_loads(family, inputs, tmp_path):
    family.save_pretrained(tmp_path / "saved")
    loaded = AdemVLForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert_equal(loaded.state_dict(), family.state_dict())
    with torch.no_grad():
        assert_close(loaded(**inputs).logits, family(**inputs).logits)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "granite"])
def test_adding_to_a_rescaled_attention_output_is_refused(model_type, tmp_path):
    families.save_bases(tmp_path, model_type)
    with pytest.raises(ValueError, match="add_to='attn_out'.*use add_to='mlp_out'"):
        tiny.build(tmp_path, query_from="attn_in", add_to="attn_out")


@pytest.mark.parametrize(("model_type", "fields"), [("gpt2", {"n_positions": 128}), ("gpt_neox", {})])
def test_families_with_other_layers_are_refused_in_a_sentence(model_type, fields, tmp_path):
    tiny.save_language_model(tmp_path / "lm", model_type, **fields)
    tiny.save_clip(tmp_path / "clip")
    with pytest.raises(ValueError, match="decoder layers|for the fused term to join"):
        tiny.build(tmp_path, "lm")
