"""EVLM on each family of the feature table: the bare language model when fresh, one that sees when trained."""

import evlm
import families
import pytest
import tiny
import torch
from closeness import assert_close, assert_equal

from adem_vl_hf import EvlmForConditionalGeneration

STEPS = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.fixture(scope="module", params=families.parameters(list(families.TABLE)[1:]))
def folder(request, tmp_path_factory):
    """Bases of a family; test_evlm_forward.py and others have the Llama."""
    return families.save_bases(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(folder):
    return evlm.build(folder)


@torch.no_grad()
def test_gates_at_zero_leave_the_language_model_as_it_is(folder):
    fresh, inputs = evlm.fresh(folder, media_tokens=0), evlm.batch(tokens=1)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    logits = fresh(**inputs).logits
    assert torch.equal(logits, fresh.language_model(**text).logits)
    assert_close(logits, tiny.language_model(folder)(**text).logits)  # as it was saved


@torch.no_grad()
def test_media_tokens_are_what_the_decoder_reads(folder, model):
    """Some families scale what comes in; a learned embedding is meant as it is."""
    inputs = evlm.batch()
    embeds = model(**inputs, output_hidden_states=True).hidden_states[0]
    places = (inputs["input_ids"][3] == tiny.IMAGE_TOKEN_ID).nonzero().flatten()
    expected = model.adapter.media_tokens.repeat(evlm.NUMBERS[3], 1)
    assert_close(embeds[3, places], expected)


@torch.no_grad()
def test_a_batch_is_each_row_alone_and_sees_its_images(model):
    inputs = evlm.batch()
    together = model(**inputs).logits
    blind = model(**inputs | {"pixel_values": inputs["pixel_values"].flip(0)}).logits
    for row, number in enumerate(evlm.NUMBERS):
        logits = model(**evlm.alone(inputs, row)).logits[0]
        assert_close(together[row, : len(logits)], logits)
        assert ((blind[row] - together[row]).abs().max() > 1e-3) == (number > 0)


def test_the_adapter_trains_and_the_family_stays_frozen(model):
    inputs = evlm.batch()
    with torch.no_grad():
        expected = model(**inputs).loss
    loss = model.train()(**inputs).loss
    loss.backward()
    model.eval()
    assert_close(loss, expected)
    found = tiny.gradients(model)
    assert found.keys() == model.adapter_state_dict().keys()
    assert all(tensor.isfinite().all() and tensor.any() for tensor in found.values())


@torch.no_grad()
def test_generation_with_and_without_the_cache(model):
    prompt = evlm.prompt(evlm.batch(side="left"))
    cached = model.generate(**prompt, **STEPS)
    for other in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(**prompt, **STEPS, **other), cached)
    beams = model.generate(**prompt, **STEPS, num_beams=2)
    assert torch.equal(model.generate(**prompt, **STEPS, num_beams=2, use_cache=False), beams)


@torch.no_grad()
def test_it_comes_back(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, inputs = EvlmForConditionalGeneration.from_pretrained(tmp_path), evlm.batch()
    assert_equal(loaded.adapter_state_dict(), model.adapter_state_dict())
    assert_close(loaded(**inputs).logits, model(**inputs).logits)
