"""Weights of EVLM's adapter in float32 beside a language model in bfloat16: each is cast once for an answer."""

import gc
import weakref
from contextlib import nullcontext

import evlm
import pytest
import torch
from torch import nn

from adem_vl_hf.modeling import cross_attention, modeling_evlm

pytestmark = [pytest.mark.core, pytest.mark.kernels]
GREEDY = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


@pytest.fixture(params=[{}, {"moe_replicas": 2}], ids=["dense", "experts"])
def model(bases, request):
    model = evlm.build(bases, **request.param)
    model.language_model.to(torch.bfloat16)
    assert model.adapter.cross_attention[0].q_proj.weight.dtype == torch.float32
    return model


def count_casts(monkeypatch, model):
    """Generate, and count the calls of ``cast`` and the copies that they returned."""
    copies, cast = [], cross_attention.cast
    monkeypatch.setattr(cross_attention, "cast", lambda *args: copies.append(cast(*args)) or copies[-1])
    tokens = model.generate(**evlm.prompt(evlm.alone(evlm.batch(), 3)), **GREEDY)
    return tokens, len(copies), len({id(copy) for copy in copies})


def test_a_weight_is_cast_once_an_answer(model, monkeypatch):
    tokens, calls, copies = count_casts(monkeypatch, model)
    monkeypatch.setattr(modeling_evlm, "casts_kept", nullcontext)
    each_time = count_casts(monkeypatch, model)
    assert torch.equal(tokens, each_time[0])
    assert each_time[1] == calls > copies
    assert each_time[2] > copies


def test_copies_are_freed_behind_the_answer_and_with_their_weight():
    weight = nn.Parameter(torch.ones(2, 2))
    with torch.no_grad():
        with cross_attention.casts_kept():
            copy = weakref.ref(cross_attention.cast(weight, torch.bfloat16))
            assert cross_attention.cast(weight, torch.bfloat16) is copy()
            assert cross_attention.cast(weight, torch.float16).dtype == torch.float16
            assert cross_attention.cast(weight, torch.float32) is weight
            gone = nn.Parameter(torch.ones(2, 2))
            its_copy = weakref.ref(cross_attention.cast(gone, torch.bfloat16))
            del gone
            gc.collect()
            assert its_copy() is None
            copy = weakref.ref(cross_attention.cast(weight, torch.bfloat16))
        gc.collect()
        assert copy() is None
        assert cross_attention.cast(weight, torch.bfloat16) is not cross_attention.cast(weight, torch.bfloat16)


def test_what_trains_is_cast_anew():
    weight = nn.Parameter(torch.ones(2, 2))
    with cross_attention.casts_kept():
        cross_attention.cast(weight, torch.bfloat16).sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_whole_model_may_be_cast(bases, dtype):
    model = evlm.build(bases, moe_replicas=2).to(dtype)
    batch = evlm.batch()
    model(**batch).loss.backward()
    assert model.adapter.cross_attention[0].ffn.router.weight.grad.dtype == dtype
    tokens = model.generate(**evlm.prompt(batch), **GREEDY)
    assert tokens.shape[1] == batch["input_ids"].shape[1] + 5
