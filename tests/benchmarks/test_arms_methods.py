"""What each comparison arm computes, against its paper: trained numbers, the start, the formulas by hand."""

import peers
import pytest
import tiny
import torch
from closeness import assert_close
from torch.nn import functional as F
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from adem_vl_hf.loading import TOWER
from adem_vl_hf.modeling.configuration_base import CLIP_VIT_L14
from adem_vl_hf.modeling.image_inputs import merge_image_embeds
from adem_vl_hf.modeling.vision import vision_features

# PEFT asks by that name, and versions before 5.23 know no other
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
LLAMA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "as_published", "unused"),
    [
        ("adem_vl", {}, {}, 4_530_432, 24_576),
        ("adem_vl_authors", {}, {}, 4_530_432, 24_576),
        ("lavin", {}, {}, 3_781_296, 0),
        ("lavin", LLAMA_13B, {"routing_temperature": 5.0}, 5_390_080, 0),
        ("memvp", {}, {}, 3_879_040, 24_576 + 2 * 4096),  # the last block's adapter, the modality embedding
        ("memvp", LLAMA_13B, {"memory_slots": 400}, 5_487_744, 24_576 + 2 * 5120),
        # prompts 10 x 30 x 4096, gates 30 x 32, projection 4 x 1024 -> 64 -> 4096; the paper states 1.8M
        ("llama_adapter", {}, {}, 1_228_800 + 960 + 262_208 + 266_240, 0),
        # the projector of LLaVA 1.5, LoRA of rank 128 on every linear layer
        ("llava_lora", {}, {"rank": 128}, 20_979_712 + 319_815_680, 0),
        ("floor", {}, {}, 0, 0),
    ],
)
def test_trained_numbers_at_7b_and_13b(name, shape, sizes, as_published, unused):
    counted = peers.arms.ARMS[name].count(LlamaConfig(**shape), CLIPVisionConfig(**CLIP_VIT_L14), **sizes)
    assert counted == {"trained": as_published - unused, "as_published": as_published}


@pytest.mark.parametrize("name", peers.TRAINED)
def test_the_matched_sizes_train_about_as_much_as_the_demo(name):
    sizes = peers.arms.matched_sizes(name)
    counted = peers.arms.ARMS[name].count(LlamaConfig(**SMOLLM2), AutoConfig.from_pretrained(TOWER), **sizes)
    assert counted["trained"] == pytest.approx(908_416, rel=0.005)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("lavin", {"adapter_dim": 7}, "adapter_dim=7 does not fall into two equal groups; give an even number"),
        ("llama_adapter", {"prompt_layers": 4}, "prompt_layers=4: the language model has 3; give 1 to 3"),
        ("memvp", {"memory_slots": 15}, "memory_slots=15 do not hold 16 patches; give at least as many"),
    ],
)
def test_a_size_that_cannot_be_is_named(name, size, message):
    with pytest.raises(ValueError, match=message):
        peers.arms.ARMS[name].count(LlamaConfig(num_hidden_layers=3), tiny.clip_config(), **size)


# what shows nothing of a picture before training, but for the tokens that stand for it in the text
SILENT = {"adem_vl": {"visual_scale": 0.0}, "adem_vl_authors": {"visual_scale": 0.0}, "memvp": {"visual_scale": 0.0}}


@pytest.mark.parametrize("name", ["adem_vl", "adem_vl_authors", "memvp", "llama_adapter", "llava_lora", "evlm"])
def test_untrained_it_is_the_bare_language_model(bases, name):
    model, processor = peers.fresh(bases, name, **SILENT.get(name, {}))
    bare = tiny.language_model(bases)
    inputs = peers.batch(processor)
    text = {"attention_mask": inputs["attention_mask"]}
    embeds = bare.get_input_embeddings()(inputs["input_ids"])
    if name == "llava_lora":
        embeds[inputs["input_ids"] == tiny.IMAGE_TOKEN_ID] = llava_tokens(bases, model, inputs).flatten(0, 1)
    elif name in ("adem_vl", "adem_vl_authors", "evlm"):
        memory = model.get_visual_memory(inputs["pixel_values"], inputs["image_mask"])
        embed = bare.get_input_embeddings()
        embeds, _ = merge_image_embeds(inputs["input_ids"], None, memory["image_embeds"], embed, tiny.IMAGE_TOKEN_ID)
    else:
        assert (inputs["input_ids"] != tiny.IMAGE_TOKEN_ID).all()  # not a token spent
    found, expected = (
        peers.logits(m, given) for m, given in ((model, inputs), (bare, {"inputs_embeds": embeds, **text}))
    )
    kept = inputs["attention_mask"].bool()
    assert_close(found[kept], expected[kept])


@torch.no_grad()
def llava_tokens(bases, model, inputs):
    """[I, N, D]: hidden states -2 of the bare tower without the class token, through Linear, GELU, Linear."""
    tower = type(model.base_model.model.model.vision_tower).from_pretrained(bases / "clip").eval()
    patches = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    assert patches.shape[:2] == (2, tiny.GRID**2)
    projector = "base_model.model.model.multi_modal_projector.modules_to_save.default"
    trained = dict(model.get_submodule(projector).named_parameters())
    hidden = F.gelu(F.linear(patches, trained["linear_1.weight"], trained["linear_1.bias"]))
    return F.linear(hidden, trained["linear_2.weight"], trained["linear_2.bias"])


def test_untrained_lavin_is_the_bare_language_model_that_never_saw_the_modality_token(bases):
    model, processor = peers.fresh(bases, "lavin")
    bare = tiny.language_model(bases)
    inputs = peers.batch(processor)
    assert (inputs["input_ids"][:, 0] == tiny.IMAGE_TOKEN_ID).all()
    with torch.no_grad():
        seen = model.memory_for(inputs["input_ids"], None, inputs["pixel_values"], inputs["image_mask"]).embeds
    assert torch.equal(seen[:, 0], model.adapter.modality[[1, 0, 1]])
    embed = bare.get_input_embeddings()
    embeds, _ = merge_image_embeds(inputs["input_ids"][:, 1:], None, seen[:, 1:], embed, tiny.IMAGE_TOKEN_ID)
    kept = inputs["attention_mask"][:, 1:]
    expected = peers.logits(bare, {"inputs_embeds": embeds, "attention_mask": kept})
    assert_close(peers.logits(model, inputs)[:, 1:][kept.bool()], expected[kept.bool()])
    # the image's words are the class tokens of all three blocks, as they are
    tower = vision_features(model.vision_tower, inputs["pixel_values"], [1, 2, 3]).pooler_output[:, :, 0]
    with torch.no_grad():
        assert_close(seen[[0, 2], 1:], model.adapter.projector(tower[[0, 2]]))


def test_lavin_routes_by_the_modality_token_alone(bases):
    model, processor = peers.build(bases, "lavin")
    inputs = peers.batch(processor)
    before = peers.logits(model, inputs)
    with torch.no_grad():
        model.adapter.modality.mul_(-2)
    after = peers.logits(model, inputs)
    assert (before - after)[:, 1:].abs().amax((1, 2)).min() > 1e-3
    routers = [adapter.router for adapter in model.adapter.text_adapters]
    with torch.no_grad():
        for router in routers:
            router.weight.zero_()
    deaf = peers.logits(model, inputs)
    with torch.no_grad():
        model.adapter.modality.mul_(-2)
    assert_close(peers.logits(model, inputs)[:, 1:], deaf[:, 1:])
    with pytest.raises(ValueError, match="no modality token"):
        model(input_ids=torch.tensor([[1, 7]]))


def test_lavins_adapter_is_two_grouped_convolutions(bases):
    adapter = peers.build(bases, "lavin")[0].adapter.text_adapters[0]
    z, weights = torch.randn(2, 5, tiny.TEXT_WIDTH), torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    low = F.conv1d(z.transpose(1, 2), adapter.down.weight[..., None], adapter.down.bias)  # [B, 8, T]
    expected = z
    for expert in range(2):
        kernel = adapter.up[expert].transpose(1, 2).flatten(0, 1)[..., None]  # [D, 8 / 2, 1]
        up = F.conv1d(low, kernel, adapter.up_bias[expert], groups=2).transpose(1, 2)
        expected = expected + weights[:, expert, None, None] * up
    assert_close(adapter(z, weights), expected)
    logits = adapter.router(z[:, 0])
    assert_close(adapter.route(z[:, 0]), (logits / adapter.temperature).softmax(-1))


def captured(module, of_input):
    """What a module was given or gave, collected from now on."""
    found = []
    module.register_forward_hook(lambda module, args, output: found.append(args[0] if of_input else output))
    return found


@torch.no_grad()
def test_memvps_term_by_hand(bases):
    model, processor = peers.build(bases, "memvp", fusion_scale=0.1, visual_scale=0.01)
    mlp = model.language_model.get_decoder().layers[1].mlp
    given, gave, patches = captured(mlp, True), captured(mlp, False), []
    model.adapter.visual_projector.register_forward_hook(lambda module, args, output: patches.append(output))
    peers.logits(model, peers.batch(processor))
    adapter, slots = model.adapter, tiny.GRID**2 + tiny.GRID**2 // 4
    visual = torch.zeros(3, slots, tiny.TEXT_WIDTH)
    visual[[0, 2], : tiny.GRID**2] = 0.01 * patches[0]
    scores = F.silu(given[0] @ (visual + adapter.key_embedding).transpose(1, 2))
    gated = mlp.down_proj(F.silu(mlp.gate_proj(given[0])) * mlp.up_proj(given[0]))
    assert_close(gave[0], gated + 0.1 * scores @ (visual + adapter.value_embedding))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_llama_adapters_prompts_by_hand(bases, attention):
    model, processor = peers.build(bases, "llama_adapter", attn_implementation=attention)
    inputs = peers.batch(processor)
    decoder, number = model.language_model.get_decoder(), 1  # the lowest layer with prompts: all before is as it was
    layer = decoder.layers[number].self_attn
    queries, mixed = captured(layer.q_proj, False), captured(layer.o_proj, True)
    image = []
    model.adapter.projector.register_forward_hook(lambda module, args, output: image.append((args[0], output)))
    peers.logits(model, inputs)
    gates = model.adapter.gates.clone()
    model.adapter.gates.zero_()
    peers.logits(model, inputs)
    tower = vision_features(model.vision_tower, inputs["pixel_values"][[0, 2]], [1, 2, 3]).pooler_output[:, :, 0]
    assert_close(image[0][0], tower.flatten(1))
    prompts = model.adapter.prompts[0].expand(3, -1, -1).clone()  # [B, K, D]
    prompts[[0, 2]] += image[0][1][:, None]
    heads, size = 4, layer.head_dim
    key, value = (
        proj(prompts).unflatten(-1, (2, size)).transpose(1, 2).repeat_interleave(2, 1)
        for proj in (layer.k_proj, layer.v_proj)
    )
    query = queries[0].unflatten(-1, (heads, size)).transpose(1, 2)  # [B, H, T, size]
    places = torch.arange(query.shape[2])[None]
    query, _ = apply_rotary_pos_emb(query, query, *decoder.rotary_emb(query, places))
    weights = (query @ key.transpose(2, 3) / size**0.5).softmax(-1)
    added = gates[0].tanh()[:, None, None] * (weights @ value)
    found = (mixed[0] - mixed[1]).unflatten(-1, (heads, size)).transpose(1, 2)
    assert_close(found, added)


def test_the_authors_order_of_computation_gives_the_same_numbers(bases):
    (ours, processor), (theirs, _) = (peers.build(bases, name) for name in ("adem_vl", "adem_vl_authors"))
    inputs = peers.batch(processor)
    assert ours.adapter_state_dict().keys() == theirs.adapter_state_dict().keys()
    assert_close(peers.logits(theirs, inputs), peers.logits(ours, inputs))
    outputs = [model.train()(**inputs) for model in (ours, theirs)]
    assert_close(outputs[1].loss, outputs[0].loss)
    assert outputs[0].logits is None
    assert outputs[1].logits.shape[:2] == inputs["input_ids"].shape  # of every position
    gradients = []
    for model, output in zip((ours, theirs), outputs, strict=True):
        output.loss.backward()
        gradients.append(tiny.gradients(model))
    assert_close(gradients[1], gradients[0])
    text = {name: x for name, x in inputs.items() if name not in ("pixel_values", "image_mask", "labels")}
    assert_close(peers.logits(theirs.eval(), text), peers.logits(ours.eval(), text))
