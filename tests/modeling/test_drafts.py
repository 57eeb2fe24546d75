"""A model that sees may draft for another one of its kind, whose width and memory are its own."""

import shutil

import architectures
import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM

pytestmark = [pytest.mark.core, architectures.each()]
STEPS = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.fixture(scope="module")
def narrow(bases, tmp_path_factory):
    """Bases whose language model is half as wide, with the same tokenizer."""
    folder = shutil.copytree(bases, tmp_path_factory.mktemp("narrow") / "bases")
    config = AutoConfig.from_pretrained(bases / "llama")
    config.hidden_size, config.head_dim = tiny.TEXT_WIDTH // 2, tiny.TEXT_WIDTH // 2 // config.num_attention_heads
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "llama")
    return folder


def test_a_narrower_model_drafts_with_a_memory_of_its_own(bases, narrow, arch):
    model, draft = arch.build(bases), arch.build(narrow)
    inputs = arch.processor(bases, model)(images=[tiny.picture(0)], text=["a photo of"])
    seen, memory_for = [], draft.memory_for

    def kept(*args, **kwargs):
        seen.append(memory_for(*args, **kwargs))
        return seen[-1]

    draft.memory_for = kept
    expected = model.generate(**inputs, **STEPS)
    assert torch.equal(model.generate(**inputs, **STEPS, assistant_model=draft), expected)
    assert seen[0] is not None
    assert seen[0].key.shape[-1] != model.memory_for(inputs["input_ids"], None, inputs["pixel_values"]).key.shape[-1]


def test_all_that_a_twin_drafts_is_accepted(bases, arch):
    model, draft = arch.build(bases), arch.build(bases)
    inputs = arch.processor(bases, model)(images=[tiny.picture(0)], text=["a photo of"])
    calls = []
    hook = model.get_decoder().register_forward_hook(lambda *args: calls.append(1))
    expected = model.generate(**inputs, **STEPS, assistant_model=draft)
    with_twin = len(calls)
    hook.remove()
    assert torch.equal(model.generate(**inputs, **STEPS), expected)
    assert with_twin < STEPS["max_new_tokens"]  # all that its twin drafts is accepted
