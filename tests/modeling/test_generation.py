"""generate(): cached and uncached, batched and alone, greedy, beams and samples; the tower runs once."""

import architectures
import pytest
import tiny
import torch
from closeness import assert_close
from families import V5_0, has_windows
from transformers import DynamicCache, StaticCache

from adem_vl_hf.modeling.visual_memory import CACHE, visual_cache_layer

pytestmark = [pytest.mark.core, pytest.mark.kernels, architectures.each_family()]
STEPS = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.fixture(scope="module")
def prompt():
    inputs = tiny.batch([9, 6, 8], [True, False, True], side="left")
    del inputs["labels"]
    return inputs


def new_tokens(model, inputs, **kwargs):
    ids = model.generate(**inputs, **{**STEPS, **kwargs})
    return ids[:, inputs["input_ids"].shape[1] :]


def alone(inputs, index):
    one = tiny.row(inputs | {"labels": inputs["input_ids"]}, index)
    del one["labels"]
    return one


def test_cached_is_uncached_is_step_by_step(model, prompt):
    cached = new_tokens(model, prompt)
    assert torch.equal(new_tokens(model, prompt, use_cache=False), cached)
    inputs = dict(prompt)
    for step in range(STEPS["max_new_tokens"]):
        position_ids = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            following = model(**inputs, position_ids=position_ids).logits[:, -1].argmax(-1)
        assert torch.equal(following, cached[:, step])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], following[:, None]], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], 1)


def test_the_picture_matters_at_every_step(model, prompt):
    other = prompt | {"pixel_values": tiny.pictures(3, seed=8)}
    with torch.no_grad():
        start = model(**prompt, use_cache=True)
        following = {"input_ids": torch.tensor([[7], [7], [7]]), CACHE: start[CACHE]}
        one = model(**following).logits
        start = model(**prompt, use_cache=True)
        memory = model.get_visual_memory(other["pixel_values"], other["image_mask"])
        keys = {name: memory[name] for name in ("visual_key", "visual_value")}
        if (kept := visual_cache_layer(start[CACHE])) is not None:  # EVLM's, where they are cached
            kept.keys, kept.values = keys.values()
            keys = {}
        two = model(**following | {CACHE: start[CACHE]}, **keys).logits
    changed = (one - two).abs().flatten(1).amax(1) > 1e-3
    assert changed.tolist() == [True, False, True]


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_a_batch_gives_what_each_row_gives_alone(model, prompt, kwargs):
    together = new_tokens(model, prompt, **kwargs)
    each = [new_tokens(model, alone(prompt, index), **kwargs) for index in range(3)]
    assert torch.equal(together, torch.cat(each))


def test_beams_find_a_likelier_answer_that_depends_on_the_picture(model, prompt):
    scored = {"return_dict_in_generate": True, "output_scores": True}
    greedy = model.generate(**prompt, **STEPS, **scored)
    beams = model.generate(**prompt, **STEPS, **scored, num_beams=6)
    scores = model.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True).sum(1)
    length = STEPS["max_new_tokens"]
    following = torch.cat([prompt["attention_mask"], torch.ones(3, length, dtype=torch.long)], 1)
    read = prompt | {"input_ids": beams.sequences, "attention_mask": following}
    position_ids = (following.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():  # what was found along the way is what the model says of the whole
        said = model(**read, position_ids=position_ids).logits[:, -length - 1 : -1].log_softmax(-1)
    chosen = said.gather(2, beams.sequences[:, -length:, None])[..., 0].mean(1)
    assert_close(beams.sequences_scores, chosen)
    # a single beam may drop what greedy takes; all rows together are likelier
    assert beams.sequences_scores.sum() * STEPS["max_new_tokens"] > scores.sum() + 1e-3
    other = model.generate(**prompt | {"pixel_values": tiny.pictures(3, seed=8)}, **STEPS, **scored, num_beams=6)
    changed = (other.sequences_scores - beams.sequences_scores).abs() > 1e-3
    assert changed.tolist() == [True, False, True]


def test_an_image_token_that_is_no_placeholder_is_a_token_like_any_other(model, prompt):
    """A tokenizer without a reserved token lends its unknown token, which text may hold and a model may write."""
    inputs = {name: tensor.clone() for name, tensor in prompt.items()}
    inputs["input_ids"][1, -2] = tiny.IMAGE_TOKEN_ID  # in a row without an image
    inputs["input_ids"][2, -2] = tiny.IMAGE_TOKEN_ID  # a second one in a row with an image
    with torch.no_grad():
        embeds = model(**inputs, output_hidden_states=True).hidden_states[0]
        text = torch.tensor([[tiny.IMAGE_TOKEN_ID]])
        own = model.language_model(text, output_hidden_states=True).hidden_states[0][0, 0]  # as the family scales it
    assert torch.equal(embeds[1, -2], own)
    assert torch.equal(embeds[2, -2], own)
    assert not torch.equal(embeds[2, 2], own)
    others = [[token] for token in range(model.config.text_config.vocab_size) if token != tiny.IMAGE_TOKEN_ID]
    for kwargs in ({}, {"use_cache": False}):
        out = model.generate(
            **prompt, **STEPS, **kwargs, bad_words_ids=others, return_dict_in_generate=True, output_hidden_states=True
        )
        assert (out.sequences[:, -2:] == tiny.IMAGE_TOKEN_ID).all()
        assert torch.equal(out.hidden_states[-1][0][:, -1], own.expand(3, -1))


@pytest.mark.parametrize("kwargs", [{}, {"num_beams": 3}, {"use_cache": False}, {"do_sample": True}], ids=str)
def test_the_tower_runs_once(model, prompt, kwargs):
    calls = []
    hook = model.vision_tower.register_forward_hook(lambda module, args, output: calls.append(output[0].shape[0]))
    new_tokens(model, prompt, **kwargs)
    hook.remove()
    assert calls == [2]


def test_sampling_follows_the_seed_and_the_pictures(model, prompt):
    def sample(inputs):
        torch.manual_seed(0)
        return new_tokens(model, inputs, do_sample=True, num_return_sequences=3)

    first = sample(prompt)
    assert first.shape == (9, 6)
    assert torch.equal(sample(prompt), first)
    other = sample(prompt | {"pixel_values": tiny.pictures(3, seed=8)})
    assert not torch.equal(other, first)


def test_going_on_from_a_cache_without_the_picture(model, prompt):
    whole = model.generate(**prompt, **STEPS, return_dict_in_generate=True)
    part = model.generate(**prompt, **{**STEPS, "max_new_tokens": 3}, return_dict_in_generate=True)
    mask = torch.cat([prompt["attention_mask"], torch.ones(3, 3, dtype=torch.long)], 1)
    with torch.no_grad():
        out = model(
            input_ids=part.sequences[:, -1:], attention_mask=mask, **{CACHE: part[CACHE]},
            position_ids=mask.sum(1, keepdim=True) - 1,
        )  # fmt: skip
    assert torch.equal(out.logits[:, -1].argmax(-1), whole.sequences[:, -3])


def test_an_emptied_cache_has_no_picture_any_more(model, prompt):
    text = {name: prompt[name] for name in ("input_ids", "attention_mask")}
    cache = StaticCache(config=model.config.text_config, max_cache_len=16)
    with torch.no_grad():
        seen = model(**prompt, **{CACHE: cache}).logits
        cache.reset()
        emptied = model(**text, **{CACHE: cache}).logits
        assert_close(emptied, model(**text).logits)
    assert (seen - emptied).abs().max() > 1e-2


def test_text_alone_and_prepared_memory(model, prompt):
    text = {name: prompt[name] for name in ("input_ids", "attention_mask")}
    assert new_tokens(model, text).shape == (3, 6)
    memory = model.get_visual_memory(prompt["pixel_values"], prompt["image_mask"])
    memory.pop("image_hidden_states", None)
    assert torch.equal(new_tokens(model, {**text, **memory}), new_tokens(model, prompt))
    assert not torch.equal(new_tokens(model, text), new_tokens(model, prompt))


def test_another_cache_changes_nothing(model, prompt):
    expected = new_tokens(model, prompt)
    for _ in range(2):  # the second run takes the first one's cache again
        assert torch.equal(new_tokens(model, prompt, cache_implementation="static"), expected)


def test_a_prompt_that_is_read_in_chunks(model):
    if V5_0 and has_windows(model):
        pytest.skip("Transformers 5.0 reads chunks wrongly with windows, with any language model")
    # without padding, which Transformers 4.57 takes for text when it prefills by chunks
    even = tiny.batch([8, 8, 8], [True, False, True])
    del even["labels"]
    cache = DynamicCache(config=model.config.text_config)  # 5.0 wants one given
    chunked = new_tokens(model, even, prefill_chunk_size=4, past_key_values=cache)
    assert torch.equal(chunked, new_tokens(model, even))


def test_going_on_from_a_cache_needs_no_image_and_changes_nothing(model, prompt):
    whole = model.generate(**prompt, **STEPS, return_dict_in_generate=True, output_logits=True)
    start = model.generate(**prompt, **{**STEPS, "max_new_tokens": 4}, return_dict_in_generate=True)
    mask = torch.nn.functional.pad(prompt["attention_mask"], (0, 4), value=1)
    rest = {"input_ids": start.sequences, "attention_mask": mask, CACHE: start[CACHE]}
    rest = model.generate(**rest, **{**STEPS, "max_new_tokens": 2}, return_dict_in_generate=True, output_logits=True)
    assert torch.equal(rest.sequences, whole.sequences)
    assert_close(torch.stack(rest.logits), torch.stack(whole.logits[4:]))


@pytest.mark.skipif(CACHE != "cache", reason="up to Transformers 5.23, past_key_values is the name")
def test_the_old_name_of_the_cache_still_works_and_warns(model, prompt):
    with torch.no_grad():
        expected = model(**prompt, cache=DynamicCache()).logits
        with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
            assert_close(model(**prompt, past_key_values=DynamicCache()).logits, expected)
