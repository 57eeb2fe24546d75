"""Measures how much each slot of a visual memory contributes to each word of an answer, with its sign.

In every layer, what a position reads of the images is a sum over the slots of the memory, weight x value: the weight is
the score of ADEM-VL's fused term (arXiv 2410.17779, Sec. III) or EVLM's attention (arXiv 2407.14177, Sec. 3.1). The
contribution of a slot to a word is the gradient of the word's log-probability by the slot's value, times that value: to
first order, what the log-probability would lose if the slot were taken out of the sums of all layers, while the weights
stay as they are. ``benchmarks/localisation.py`` compares it with where things really are.

Shapes: W words, T tokens of the answer, S memory slots, D width, L cross-attention layers.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..modes import evaluating
from .answer_pass import take_memory


def contributions_in_pass(
    model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor, words: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure the contribution of every slot to words of an answer.

    Args:
        model (Any): A model of this package. It is left in the mode that it was in, and its parameters get no
            gradients.
        batch (dict[str, torch.Tensor]): Its inputs for one row, with images. They stay as they are.
        positions (torch.Tensor): The T positions that predict the tokens of the answer.
        words (Sequence[Sequence[int]]): For each of the W words, the indices of its tokens among the T.

    Returns:
        The contributions in nats, above 0 where a slot makes the word more likely: [W, S] for ADEM-VL, [W, L, S] for
        EVLM. And the log-probability of each word, [W]. Both are float32 and on the CPU.
    """
    batch = dict(batch)
    targets = batch["input_ids"][0, positions + 1]  # [T]
    with evaluating(model), torch.enable_grad():
        memory = take_memory(model, batch)
        value = memory["visual_value"].detach().clone().requires_grad_()  # [1, S, D] or [1, L, S, width]
        logits = model(**batch, **(memory | {"visual_value": value}), use_cache=False).logits[0, positions]  # [T, ids]
        chosen = logits.float().log_softmax(-1).gather(-1, targets.to(logits.device)[:, None])[:, 0]  # [T]
        found = []
        for tokens in words:
            (gradient,) = torch.autograd.grad(chosen[list(tokens)].sum(), value, retain_graph=True)
            found.append((gradient.float() * value.detach().float()).sum(-1)[0].cpu())
        log_probabilities = torch.stack([chosen[list(tokens)].sum() for tokens in words]).detach().cpu()
    return torch.stack(found), log_probabilities


def by_place(grids: Sequence[torch.Tensor]) -> torch.Tensor:
    """Add up grids of several sizes, place by place. A coarse slot is shared out among the places that it covers.

    Args:
        grids (Sequence[torch.Tensor]): Square grids over the same image, [..., side, side] each, of any sides.

    Returns:
        A grid of the largest of the sides, with the same sum.
    """
    finest = max(grid.shape[-1] for grid in grids)
    return torch.stack([_spread(grid, finest) for grid in grids]).sum(0)


def _spread(grid: torch.Tensor, finest: int) -> torch.Tensor:
    """Share out a grid [..., side, side] among finest x finest places, by the share of each slot that they cover."""
    side = grid.shape[-1]
    begin, slot = torch.arange(finest) / finest, torch.arange(side) / side
    ends = torch.minimum(begin[:, None] + 1 / finest, slot + 1 / side)
    overlap = (ends - torch.maximum(begin[:, None], slot)).clamp(min=0) * side  # [finest, side], each column sums to 1
    return overlap @ grid @ overlap.T
