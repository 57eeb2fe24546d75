"""The mixture of experts: routing, balance, and upcycling that keeps the function."""

import evlm
import pytest
import torch
from closeness import assert_close, assert_equal
from torch.nn import functional as F

from adem_vl_hf.modeling.cross_attention import MixtureOfExperts, balance

pytestmark = [pytest.mark.core, pytest.mark.kernels]


@pytest.fixture
def layer():
    layer = MixtureOfExperts(16, 24, replicas=3, slices=2, top_k=2)
    torch.manual_seed(0)
    layer.reset()
    torch.nn.init.normal_(layer.router.weight)
    torch.nn.init.constant_(layer.gate, 0.7)
    return layer


@torch.no_grad()
def test_each_position_gets_its_own_experts(layer):
    x = torch.randn(2, 5, 16)
    out, logits = layer(x)
    assert logits.shape == (2, 5, 6)
    for position, expected in zip(x.reshape(-1, 16), out.reshape(-1, 16), strict=True):
        chosen = (layer.router.weight @ position).softmax(0).topk(2)
        routed = torch.zeros(16)
        for weight, expert in zip(chosen.values / chosen.values.sum() * 2, chosen.indices, strict=True):
            routed += weight * (F.gelu(layer.fc1[expert] @ position) @ layer.fc2[expert])
        assert_close(layer.world(position) + layer.gate.tanh() * routed, expected)


def test_the_balance_is_one_for_even_use_and_the_number_of_experts_for_one():
    seen = torch.ones(1, 4, dtype=torch.bool)
    even = torch.eye(4)[None] * 1e-4  # each position another expert, probabilities alike
    assert balance(even, seen, 1)[0] == pytest.approx(1, abs=1e-3)
    assert balance(even, seen, 1)[1].tolist() == [0.25] * 4
    one = torch.zeros(1, 4, 4)
    one[..., 0] = 100
    assert balance(one, seen, 1)[0] == pytest.approx(4)
    assert balance(one, torch.zeros_like(seen), 1)[0] == 0  # nothing sees an image


@torch.no_grad()
@pytest.mark.parametrize("numbers", [(4, 4, 4), (1, 2, 1)])
def test_upcycling_keeps_the_function(bases, numbers, tmp_path):
    model, inputs = evlm.build(bases), evlm.batch()
    dense = model(**inputs).logits
    ffn = model.adapter.cross_attention[1].ffn
    fc1, fc2 = ffn.fc1.weight.clone(), ffn.fc2.weight.clone()
    assert model.upcycle(*numbers) is model
    out = model(**inputs, output_router_logits=True)
    assert_close(out.logits, dense)
    layers, experts = model.config.num_cross_attention_layers, numbers[0] * numbers[1]
    assert len(out.router_logits) == layers
    assert out.router_load.shape == (layers, experts)
    assert_close(out.router_load.sum(1), torch.ones(layers))
    # the slices of one copy, added up, are the dense part: what is behind the gate starts from what was trained
    mixture, x = model.adapter.cross_attention[1].ffn, torch.randn(5, 32)
    whole = F.gelu(x @ fc1.T) @ fc2.T
    parts = sum(F.gelu(x @ mixture.fc1[i].T) @ mixture.fc2[i] for i in range(numbers[1]))
    assert_close(parts, whole)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert_equal(again.adapter_state_dict(), model.adapter_state_dict())
    assert_close(again(**inputs).logits, out.logits)
    with pytest.raises(ValueError, match=f"has {experts} experts already"):
        model.upcycle()


@pytest.mark.parametrize(
    ("numbers", "message"), [((1, 3, 1), "has no 3 equal slices"), ((1, 2, 3), "moe_top_k=3"), ((0, 2, 1), "is none")]
)
def test_upcycling_that_cannot_be_leaves_the_model_dense(bases, numbers, message):
    model = evlm.build(bases)
    with pytest.raises(ValueError, match=message):
        model.upcycle(*numbers)
    assert model.config.moe_replicas == 0
    assert model(**evlm.batch()).logits.isfinite().all()


def test_the_balance_joins_the_loss(bases):
    model, inputs = evlm.build(bases, moe_replicas=2), evlm.batch()
    out = model(**inputs)
    assert out.aux_loss > 0.5
    assert out.router_logits is None
    model.config.router_aux_loss_coef = 0.0
    without = model(**inputs).loss
    assert_close(out.loss, without + 0.01 * out.aux_loss)


@torch.no_grad()
def test_padding_is_not_balanced(bases):
    model, inputs = evlm.build(bases, moe_replicas=2), evlm.batch()
    wider = {name: F.pad(inputs[name], (0, 5)) for name in ("input_ids", "attention_mask")}
    expected, found = model(**evlm.prompt(inputs)), model(**evlm.prompt(inputs) | wider)
    assert_close(found.aux_loss, expected.aux_loss)
    assert_close(found.router_load, expected.router_load)


def test_a_checkpoint_of_every_weight_keeps_the_experts(bases, tmp_path):
    model = evlm.build(bases, moe_replicas=2)
    model.save_pretrained(tmp_path, save_base=True)
    assert_equal(type(model).from_pretrained(tmp_path).state_dict(), model.state_dict())
