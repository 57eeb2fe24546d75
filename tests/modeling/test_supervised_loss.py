"""The operator for the loss in compiled graphs: it computes what the head and the library's loss function do."""

import pytest
import tiny
import torch
from torch import nn
from transformers.loss.loss_utils import ForCausalLMLoss

from adem_vl_hf.modeling.supervised_loss import mean_loss, operator_takes, supervised_loss

VOCABULARY, WIDTH, POSITIONS = 23, 8, 14


def parts(dtype=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype).requires_grad_(False)
    hidden_states = torch.randn(POSITIONS, WIDTH, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCABULARY, (POSITIONS,))
    targets[::3] = -100
    return head, hidden_states, targets


@pytest.mark.parametrize("number", [None, 5, torch.tensor(5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_loss_and_gradient_are_the_librarys(number, dtype, tolerance):
    head, hidden_states, targets = parts(dtype)
    found = mean_loss(hidden_states, head.weight, targets, number)
    (gradient,) = torch.autograd.grad(3 * found, hidden_states)
    expected = ForCausalLMLoss(
        logits=head(hidden_states), labels=None, vocab_size=VOCABULARY, shift_labels=targets, num_items_in_batch=number
    )
    (right,) = torch.autograd.grad(3 * expected, hidden_states)
    assert found.dtype == expected.dtype
    assert gradient.dtype == right.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, right, rtol=tolerance, atol=tolerance * right.abs().max().item())
    assert not gradient[targets == -100].any()


def test_the_operator_is_one_that_compilers_take():
    head, hidden_states, targets = parts()
    torch.library.opcheck(supervised_loss, (hidden_states, head.weight, targets))


def test_it_takes_only_what_it_computes_alike():
    head, hidden_states, _ = parts()
    assert operator_takes(head, ForCausalLMLoss, hidden_states, {"num_items_in_batch": 3, "use_cache": False})
    assert not operator_takes(head, lambda **_: None, hidden_states, {})
    assert not operator_takes(head, ForCausalLMLoss, hidden_states, {"ignore_index": 0})
    assert not operator_takes(head, ForCausalLMLoss, hidden_states.bfloat16(), {})
    assert not operator_takes(nn.Linear(WIDTH, VOCABULARY).requires_grad_(False), ForCausalLMLoss, hidden_states, {})
    assert not operator_takes(nn.Linear(WIDTH, VOCABULARY, bias=False), ForCausalLMLoss, hidden_states, {})
    assert not operator_takes(nn.Sequential(head), ForCausalLMLoss, hidden_states, {})
    with torch.autocast("cpu"):
        assert not operator_takes(head, ForCausalLMLoss, hidden_states, {})
    head.register_forward_hook(lambda *_: None)
    assert not operator_takes(head, ForCausalLMLoss, hidden_states, {})


@pytest.mark.slow
def test_a_compiled_step_runs_the_head_on_supervised_positions_alone(bases, arch):
    """The operator stands in the graph, and no product of the head with all positions."""
    model, found = arch.build(bases).train(), []

    def backend(graph, inputs):
        found.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    torch.compiler.reset()
    torch.compile(model.forward, fullgraph=True, backend=backend)(**tiny.batch([9, 9], [True, True])).loss.backward()
    assert any("supervised_loss" in target for target in found)
    assert not any("cross_entropy" in target for target in found)
