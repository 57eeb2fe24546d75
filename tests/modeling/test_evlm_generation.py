"""EVLM's generation: projected keys and values in the ordinary cache."""

import evlm
import pytest
import tiny
import torch
import transformers
from closeness import assert_close
from transformers import DynamicCache, StaticCache

from adem_vl_hf.modeling.visibility import append_images
from adem_vl_hf.modeling.visual_memory import CACHE, VisualCacheLayer, VisualMemory, visual_cache_layer

pytestmark = [pytest.mark.core, pytest.mark.kernels]
OLD = int(transformers.__version__.split(".")[0]) < 5
GREEDY = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module", params=[{}, {"moe_replicas": 2, "mask_mode": "all_frames"}], ids=["dense", "experts"])
def model(bases, request):
    return evlm.build(bases, frame_embeddings=4, **request.param)


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        # a draft that finds something is looked through for the end, which 4.57 can't do without one
        {"use_cache": False}, {"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 2, "eos_token_id": -1},
        {"num_beams": 3}, {"num_beams": 3, "use_cache": False}, {"prefill_chunk_size": 3},
    ],
    ids=str,
)  # fmt: skip
def test_however_it_generates_a_batch_is_each_row_alone(model, options):
    inputs = evlm.prompt(evlm.batch(side="left"))
    rows = range(len(evlm.NUMBERS))
    # 4.57 reads padded rows in parts wrongly, with any language model
    unpadded = "prompt_lookup_num_tokens" in options or ("prefill_chunk_size" in options and OLD)
    if unpadded:
        inputs, rows = evlm.alone(evlm.batch(), 3), [3]
        inputs.pop("labels")
    if "prefill_chunk_size" in options:  # 5.0 wants a cache given
        options = options | {"past_key_values": DynamicCache(config=model.config.text_config)}
    together = model.generate(**inputs, **GREEDY | options)[:, inputs["input_ids"].shape[1] :]
    plain = {"num_beams": options["num_beams"]} if "num_beams" in options else {}
    for place, row in enumerate(rows):
        one = evlm.prompt(evlm.alone(evlm.batch(), row))
        new = model.generate(**one, **GREEDY, **plain)[:, one["input_ids"].shape[1] :]
        assert together[place].tolist() == new[0].tolist()


@torch.no_grad()
def test_a_step_with_the_cache_is_the_same_pass_without(model):
    inputs = evlm.prompt(evlm.alone(evlm.batch(), 3))
    whole = model(**inputs).logits
    length = inputs["input_ids"].shape[1]
    for cut in (5, 8, length - 2):  # inside an image's tokens, behind one image, behind all of them
        memory = model.get_visual_memory(inputs["pixel_values"])
        first = {"input_ids": inputs["input_ids"][:, :cut], "attention_mask": inputs["attention_mask"][:, :cut]}
        out = model(**first, **memory, use_cache=True)
        assert_close(out.logits, whole[:, :cut])
        rest = {"input_ids": inputs["input_ids"][:, cut:], "attention_mask": inputs["attention_mask"]}
        if cut == length - 2:
            memory = {}  # the cache has it
        after = model(**rest, **memory, **{CACHE: out[CACHE]}).logits
        assert_close(after, whole[:, cut:])


@torch.no_grad()
def test_the_tower_runs_once_and_the_cache_keeps_what_is_projected(model):
    inputs = evlm.prompt(evlm.batch(side="left"))
    calls = []
    handle = model.vision_tower.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    projected = []
    layer = model.adapter.cross_attention[0].k_proj
    second = layer.register_forward_hook(lambda *args: projected.append(1))
    out = model.generate(**inputs, **GREEDY, num_beams=2, return_dict_in_generate=True)
    handle.remove(), second.remove()
    assert calls == [sum(evlm.NUMBERS)]
    assert projected == [1]
    kept = visual_cache_layer(out[CACHE])
    config = model.config
    slots = max(evlm.NUMBERS) * 17 + config.zero_vectors
    shape = (2 * len(evlm.NUMBERS), config.num_cross_attention_layers, slots, config.cross_attention_dim)
    assert kept.keys.shape == kept.values.shape == shape
    assert len(out[CACHE].layers) == config.text_config.num_hidden_layers + 1


@torch.no_grad()
@pytest.mark.parametrize("static", [False, True])
def test_a_conversation_goes_on_with_another_image(bases, static):
    """Second turn on the first one's cache: the new image behind the old ones, the old ones not computed again."""
    model = evlm.build(bases)
    ids = torch.tensor([[1, 9, 4, 4, 20, 21, 22]])
    more = torch.tensor([[30, 4, 4, 31, 32]])
    pixels = tiny.pictures(2)[None]
    cache = StaticCache(config=model.config.text_config, max_cache_len=32) if static else DynamicCache()
    first = model(input_ids=ids, pixel_values=pixels[:, :1], **{CACHE: cache})
    calls = []
    handle = model.vision_tower.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    mask = torch.ones(1, 12, dtype=torch.long)
    second = model(input_ids=more, pixel_values=pixels[:, 1:], **{CACHE: first[CACHE]}, attention_mask=mask).logits
    handle.remove()
    assert calls == [1]
    whole = model(input_ids=torch.cat([ids, more], dim=1), pixel_values=pixels).logits
    assert_close(second, whole[:, 7:])


def test_the_visual_layer_follows_the_cache():
    keys = torch.arange(2.0)[:, None, None, None].expand(2, 3, 4, 5)
    slots = torch.tensor([[0, 0, 1, -2], [0, 0, -1, -2]])
    memory = VisualMemory(keys, -keys, slots, all_frames=torch.tensor([True, False]))
    layer = VisualCacheLayer(memory)
    layer.tokens_read = torch.tensor([4, 2])
    layer.crop(1)
    layer.batch_repeat_interleave(2)
    assert layer.keys[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert layer.tokens_read.tolist() == [4, 4, 2, 2]
    layer.reorder_cache(torch.tensor([3, 0]))
    assert layer.values[:, 0, 0, 0].tolist() == [-1, 0]
    assert layer.memory.slots.tolist() == [slots[1].tolist(), slots[0].tolist()]
    layer.batch_select_indices(torch.tensor([1]))
    assert layer.memory.all_frames.tolist() == [True]
    assert layer.max_batch_size == 1
    layer.reset()
    assert layer.memory is layer.keys is layer.tokens_read is None


def test_new_images_come_behind_the_old_ones():
    keys = torch.arange(2.0)[:, None, None, None].expand(2, 3, 4, 5)
    slots = torch.tensor([[0, 0, 1, -2], [0, 0, -1, -2]])
    before = VisualMemory(keys, -keys, slots, all_frames=torch.tensor([True, False]))
    new = VisualMemory(
        *torch.full((2, 2, 3, 3, 5), 7.0), torch.tensor([[0, 0, -2]]).expand(2, -1), all_frames=torch.zeros(2) > 0
    )
    both = append_images(before, new)
    # one zero vector, and the next image's number
    assert both.slots.tolist() == [[0, 0, 1, -2, 2, 2], [0, 0, -1, -2, 1, 1]]
    assert both.key.shape == both.value.shape == (2, 3, 6, 5)
    assert both.all_frames.tolist() == [True, False]


@torch.no_grad()
def test_a_bare_language_model_drafts(bases, model):
    draft = tiny.language_model(bases)
    one = evlm.prompt(evlm.alone(evlm.batch(), 3))
    expected = model.generate(**one, **GREEDY)
    assert torch.equal(model.generate(**one, **GREEDY, assistant_model=draft), expected)


@pytest.mark.skipif(OLD, reason="Transformers 5 brought it")
def test_continuous_batching_is_refused_in_a_sentence(model):
    with pytest.raises(NotImplementedError, match="has no continuous batching, .* generate"):
        model.generate_batch([[1, 2, 3]])
