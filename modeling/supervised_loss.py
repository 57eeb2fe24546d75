"""LM head and cross-entropy of the supervised positions as one operator, for graphs that ``torch.compile`` traces.

How many positions are supervised depends on the labels, and a graph's shapes may not. Without the operator a compiled
training step would run the head on every position, which takes a quarter as long as a small model's layers.

Shapes: N positions, D width of the language model, V size of the vocabulary.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.loss.loss_utils import ForCausalLMLoss

from .labels import NOT_SUPERVISED


def operator_takes(head: Any, loss_function: Any, hidden_states: torch.Tensor, arguments: dict[str, Any]) -> bool:
    """Whether the operator computes what the head and the loss function would.

    Args:
        head (Any): the language model's head.
        loss_function (Any): the model's loss function.
        hidden_states (torch.Tensor): [N, D].
        arguments (dict[str, Any]): what the loss function is given beside logits and labels.

    Returns:
        False for a head that trains, is quantised, split, offloaded or hooked, under autocast, and for any loss but the
        library's own of a causal language model.
    """
    return (
        type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) is nn.Parameter
        and not head.weight.requires_grad
        and head.weight.dtype == hidden_states.dtype
        and not (head._forward_hooks or head._forward_pre_hooks or "forward" in head.__dict__)
        and loss_function is ForCausalLMLoss
        and "ignore_index" not in arguments
        and not torch.is_autocast_enabled(hidden_states.device.type)
    )


@torch.library.custom_op("adem_vl::supervised_loss", mutates_args=())
def supervised_loss(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the cross-entropy over the supervised positions.

    Args:
        hidden_states (torch.Tensor): [N, D].
        weight (torch.Tensor): of the head, [V, D]; it is frozen.
        targets (torch.Tensor): [N], the token that comes next, -100 = not supervised.

    Returns:
        The sum, float32, as the library computes it; and its gradient by the hidden states, [N, D].
    """
    supervised = (targets != NOT_SUPERVISED).nonzero()[:, 0]
    chosen = targets[supervised, None]
    log_probabilities = F.linear(hidden_states[supervised], weight).float().log_softmax(-1)  # [supervised, V]
    loss = -log_probabilities.gather(1, chosen).sum()
    by_logits = log_probabilities.exp_().scatter_add_(
        1, chosen, log_probabilities.new_full((1, 1), -1).expand_as(chosen)
    )
    gradient = torch.zeros_like(hidden_states)
    gradient[supervised] = by_logits.to(weight.dtype) @ weight
    return loss, gradient


@supervised_loss.register_fake
def _shapes(hidden_states, weight, targets):
    return hidden_states.new_empty((), dtype=torch.float32), torch.empty_like(hidden_states)


def _note_gradient(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx, by_loss, _):
    (gradient,) = ctx.saved_tensors
    return (gradient * by_loss).to(gradient.dtype), None, None


supervised_loss.register_autograd(_backward, setup_context=_note_gradient)


def mean_loss(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, number: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Divide the sum by the number of supervised positions.

    Args:
        hidden_states (torch.Tensor): [N, D].
        weight (torch.Tensor): of the head, [V, D].
        targets (torch.Tensor): [N], the token that comes next, -100 = not supervised.
        number (torch.Tensor | int | None): the library's ``num_items_in_batch``; None = those of ``targets``.

    Returns:
        The loss, as ``ForCausalLMLoss`` returns it.
    """
    loss, _ = supervised_loss(hidden_states, weight, targets)
    if number is None:
        number = (targets != NOT_SUPERVISED).sum()
    return loss / (number.to(loss.device) if isinstance(number, torch.Tensor) else number)
