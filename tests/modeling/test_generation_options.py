"""What generate() takes beyond greedy and beams: drafts, lookup, streamers, stop strings, logits processors."""

import architectures
import pytest
import tiny
import torch
import transformers
from families import V5_0, has_windows
from transformers import TextStreamer

pytestmark = [pytest.mark.core, pytest.mark.kernels, architectures.each_family()]
STEPS = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 3}


@pytest.fixture(scope="module")
def prompt():
    """One row with an image: drafts and streamers take one at a time."""
    inputs = tiny.batch([9], [True])
    del inputs["labels"]
    return inputs


@pytest.fixture(scope="module")
def greedy(model, prompt):
    return model.generate(**prompt, **STEPS)


def passes(model, prompt, **kwargs):
    """What is generated, and how often the decoder ran for it."""
    calls = []
    hook = model.get_decoder().register_forward_hook(lambda *args: calls.append(1))
    out = model.generate(**prompt, **STEPS, **kwargs)
    hook.remove()
    return out, len(calls)


@pytest.fixture
def drafts(model):
    if V5_0 and has_windows(model):
        pytest.skip("Transformers 5.0 cannot take drafts back out of a cache with windows")


@pytest.mark.usefixtures("drafts")
@pytest.mark.parametrize("own", [False, True], ids=["another copy", "the frozen one itself"])
def test_the_bare_language_model_drafts(bases, model, prompt, greedy, own):
    draft = model.language_model if own else tiny.language_model(bases)
    assert torch.equal(model.generate(**prompt, **STEPS, assistant_model=draft), greedy)


@pytest.mark.usefixtures("drafts")
def test_a_model_that_sees_drafts_better_than_a_blind_one(model, prompt, greedy):
    found, number = passes(model, prompt, assistant_model=model)
    assert torch.equal(found, greedy)
    # its drafts are all accepted: the same calls draft and check, and fewer than one a token check
    assert number < 2 * STEPS["max_new_tokens"]


@pytest.mark.usefixtures("drafts")
def test_prompt_lookup(model, prompt, greedy):
    given = {**STEPS, "eos_token_id": 2, "prompt_lookup_num_tokens": 3}  # 5.0 cannot look up without an end
    found = model.generate(**prompt, **given)
    assert torch.equal(found[:, : greedy.shape[1]], greedy)
    assert found.shape[1] <= greedy.shape[1] + 1  # 4.57 writes one more where a draft is accepted to its end


def test_a_streamer_says_what_is_generated(model, prompt, greedy):
    words, said = tiny.tokenizer(), []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            said.append(text)

    model.generate(**prompt, **STEPS, streamer=Streamer(words, skip_prompt=True))
    assert "".join(said) == words.decode(greedy[0, prompt["input_ids"].shape[1] :])


def test_a_stop_string_ends_the_answer(model, prompt):
    words, length = tiny.tokenizer(), prompt["input_ids"].shape[1]
    # part of a character is no string to wait for
    parts = [token for token in range(len(words)) if "\ufffd" in words.decode(token)]
    greedy = model.generate(**prompt, **STEPS, suppress_tokens=parts)
    stop = words.decode(greedy[0, length])
    out = model.generate(**prompt, **STEPS, suppress_tokens=parts, stop_strings=[stop], tokenizer=words)
    assert length < out.shape[1] < greedy.shape[1]
    assert torch.equal(out[0], greedy[0, : out.shape[1]])
    assert stop in words.decode(out[0, -1])


def test_logits_processors_that_index_by_token(model, prompt, greedy):
    first = int(greedy[0, prompt["input_ids"].shape[1]])
    banned = model.generate(**prompt, **STEPS, bad_words_ids=[[first]])
    assert not (banned[:, prompt["input_ids"].shape[1] :] == first).any()
    once = model.generate(**prompt, **STEPS, no_repeat_ngram_size=1)[0, prompt["input_ids"].shape[1] :]
    assert len(set(once.tolist())) == len(once)
    assert model.generate(**prompt, **STEPS, repetition_penalty=5.0).shape == greedy.shape


def test_top_k_of_one_samples_the_greedy_answer(model, prompt, greedy):
    steps = STEPS | {"do_sample": True}
    out = model.generate(**prompt, **steps, top_k=1, num_return_sequences=2)
    assert torch.equal(out, greedy.repeat(2, 1))


def test_a_cache_under_the_librarys_newer_name(model, prompt, greedy):
    cache = transformers.DynamicCache(config=model.config.get_text_config())
    out = model.generate(**prompt, **STEPS, past_key_values=None, cache=cache)
    assert torch.equal(out, greedy)
    assert cache.get_seq_length() > 0
