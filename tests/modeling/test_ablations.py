"""Every ablation switch of the configuration does to the model what its row of the paper's tables says."""

import families
import pytest
import tiny
import torch
from closeness import assert_close
from test_configuration import ALLOWED_PLACES
from torch import nn

from adem_vl_hf.modeling.adapter_adem_vl import pool_scales
from adem_vl_hf.modeling.configuration_adem_vl import KERNELS
from adem_vl_hf.modeling.fusion import fuse, kernel_map

pytestmark = [pytest.mark.core, pytest.mark.kernels]

# families that normalise the attention's output before the residual sum
RESCALED = {"gemma2", "gemma3_text"}


@pytest.fixture(scope="module")
def inputs():
    inputs = tiny.batch([7, 7], [True, True])
    return {name: inputs[name] for name in ("input_ids", "pixel_values")}


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


@pytest.fixture(scope="module")
def single(bases, tmp_path_factory):
    """Bases whose language model has one layer, and that model without an adapter."""
    folder = tmp_path_factory.mktemp("single")
    tiny.save_llama(folder / "llama", num_hidden_layers=1)
    (folder / "clip").symlink_to(bases / "clip")
    return folder


class Around(nn.Module):
    """A part of a decoder layer with the fused term joined to what goes into it or comes out, as the switches say."""

    def __init__(self, part, places, query, fused):
        super().__init__()
        self.part, self.places, self.query, self.fused = part, places, query, fused
        self.is_sliding = getattr(part, "is_sliding", None)  # Gemma 3 asks it before Transformers 5

    def forward(self, hidden_states, **kwargs):
        places, x = self.places, hidden_states
        if places[1].endswith("_in"):
            return self.part(x + self.fused(x), **kwargs)
        out = self.part(x, **kwargs)
        found = tiny.first(out)
        # the query is the sub-layer's own input or output, whatever norm stands between it and the sum
        joined = found + self.fused(self.query.get(places[0].partition("_")[2], x if "in" in places[0] else found))
        return (joined, *out[1:]) if isinstance(out, tuple) else joined


def places_by_family():
    """Two norms around the attention rule its output out for some (``test_families.py`` says which error)."""
    return [families.parameter(family, places) for family in families.TABLE for places in ALLOWED_PLACES
            if not (places[1] == "attn_out" and family in RESCALED)]  # fmt: skip


@pytest.mark.parametrize(("bases", "places"), places_by_family(), indirect=["bases"], ids=str)
def test_where_the_query_is_taken_and_the_result_added(bases, inputs, places):
    """The family's own layers, with the fused term joined from outside, against the model."""
    query_from, add_to = places
    model = tiny.build(bases, query_from=query_from, add_to=add_to)
    plain = tiny.language_model(bases)
    memory = model.get_visual_memory(inputs["pixel_values"])

    def fused(x):
        return fuse(x, memory["visual_key"], memory["visual_value"], "silu", 0.1)

    for layer in plain.model.layers:
        name, query = ("mlp" if add_to.startswith("mlp") else "self_attn"), {}
        if add_to == "mlp_out" and hasattr(layer, "post_feedforward_layernorm"):
            layer.mlp.register_forward_hook(
                lambda module, args, out, query=query: query.update({"in": args[0], "out": tiny.first(out)})
            )
            name = "post_feedforward_layernorm"
        setattr(layer, name, Around(getattr(layer, name), places, query, fused))
    with torch.no_grad():
        x = plain.get_input_embeddings()(inputs["input_ids"])
        x = torch.where((inputs["input_ids"] == tiny.IMAGE_TOKEN_ID)[..., None], memory["image_embeds"], x)
        expected = plain(inputs_embeds=x).logits
        without = tiny.language_model(bases)(inputs_embeds=x).logits
    assert_close(logits(model, inputs), expected)
    assert (expected - without).abs().max() > 1e-2


def test_every_row_of_a_table_is_another_model(bases, inputs):
    tables = {
        "places": [{"query_from": query_from, "add_to": add_to} for query_from, add_to in ALLOWED_PLACES],
        "kernel": [{"kernel": kernel} for kernel in KERNELS],
        "pooling": [{"pooling": pooling} for pooling in ("avg", "max")],
        "drop": [{"drop_ratio": ratio} for ratio in (0.0, 0.1, 0.5)],
        "scales": [{"visual_token_counts": counts} for counts in ([16], [4], [16, 4], [4, 16], [16, 4, 1])],
        "layer": [{"vision_feature_layer": layer} for layer in (-1, -2, -3)],
        "alpha": [{"fusion_scale": scale} for scale in (0.1, 1.0)],
        "beta": [{"visual_scale": scale} for scale in (0.1, 1.0)],
        "adapter": [{"vision_adapter_scale": scale} for scale in (0.1, 1.0)],
    }
    for name, rows in tables.items():
        results = [logits(tiny.build(bases, **fields), inputs) for fields in rows]
        for i, one in enumerate(results):
            assert all((one - other).abs().max() > 1e-4 for other in results[:i]), (name, rows[i])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_kernel_maps_query_and_key_but_not_value(single, inputs, kernel):
    model = tiny.build(single, kernel=kernel, drop_ratio=0.0)
    memory = model.get_visual_memory(inputs["pixel_values"])
    prompt = memory["image_hidden_states"]
    assert_close(memory["visual_key"], kernel_map(prompt + model.adapter.key_embedding, kernel))
    assert_close(memory["visual_value"], prompt + model.adapter.value_embedding)
    seen = {}
    layer = model.get_decoder().layers[0]
    hooks = [
        layer.post_attention_layernorm.register_forward_hook(lambda module, args, out: seen.update(h=args[0], x=out)),
        layer.register_forward_hook(lambda module, args, out: seen.update(out=tiny.first(out))),
    ]
    with torch.no_grad():
        model(**inputs)
        plain = seen["h"] + tiny.language_model(single).model.layers[0].mlp(seen["x"])
    for hook in hooks:
        hook.remove()
    fused = (kernel_map(seen["x"], kernel) @ memory["visual_key"].mT) @ memory["visual_value"]
    assert_close(seen["out"] - plain, fused)


@pytest.mark.parametrize("use_cls_token", [True, False])
@pytest.mark.parametrize("number", [0, 4, 16])
def test_which_image_embeddings_stand_in_the_input(bases, use_cls_token, number):
    model = tiny.build(bases, use_cls_token=use_cls_token, input_visual_tokens=number)
    image_tokens = model.config.image_tokens
    assert image_tokens == use_cls_token + number
    ids = torch.tensor([[1, 9, *[tiny.IMAGE_TOKEN_ID] * image_tokens, 10, 11]])
    pixels = tiny.pictures(1)
    with torch.no_grad():
        embeds = model(input_ids=ids, pixel_values=pixels, output_hidden_states=True).hidden_states[0][0]
        features = model.get_image_features(pixels).pooler_output
        expected = []
        if use_cls_token:
            expected.append(model.adapter.cls_projector(features[0, :1]))
        if number:
            expected.append(model.adapter.visual_projector(pool_scales(features[:, 1:], [number])[0]))
        text = model.get_input_embeddings()(ids[0])
    assert torch.equal(embeds[:2], text[:2])
    assert torch.equal(embeds[-2:], text[-2:])
    if expected:
        assert_close(embeds[2:-2], torch.cat(expected))
    assert ("adapter.cls_projector.fc1.weight" in model.adapter_state_dict()) == use_cls_token


def test_without_class_token_the_picture_still_reaches_the_layers(bases, inputs):
    model = tiny.build(bases, use_cls_token=False)
    assert model.config.image_token_id is None  # no token is asked for
    blind = {"input_ids": inputs["input_ids"]}
    assert (logits(model, inputs) - logits(model, blind)).abs().max() > 1e-3


def test_without_tower_adapters_no_gradient_runs_through_the_tower(bases, inputs):
    model = tiny.build(bases, vision_adapter_dim=0)
    assert not any("vision_adapters" in key for key in model.adapter_state_dict())
    assert not model.get_image_features(inputs["pixel_values"]).pooler_output.requires_grad
    assert tiny.build(bases).get_image_features(inputs["pixel_values"]).pooler_output.requires_grad
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert set(tiny.gradients(model)) == set(model.adapter_state_dict())
    # the adapters of a model that has them matter: the same weights without them give other features
    with_adapters = tiny.build(bases)
    plain = model.get_image_features(inputs["pixel_values"]).pooler_output
    assert (with_adapters.get_image_features(inputs["pixel_values"]).pooler_output - plain).abs().max() > 1e-3


def test_scales_of_zero_switch_the_paths_off(bases, inputs):
    text = inputs["input_ids"]
    plain = tiny.language_model(bases)
    silent = tiny.build(bases, fusion_scale=0.0, use_cls_token=False)
    with torch.no_grad():
        expected = plain(input_ids=text).logits
    assert_close(logits(silent, inputs), expected)
    # beta = 0: the fused term is the learned memory, whatever the picture
    blind = tiny.build(bases, visual_scale=0.0, use_cls_token=False)
    assert torch.equal(logits(blind, inputs), logits(blind, inputs | {"pixel_values": tiny.pictures(2, seed=9)}))
    assert (logits(blind, inputs) - expected).abs().max() > 1e-3
