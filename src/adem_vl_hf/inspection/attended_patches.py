"""Measures where an EVLM looks: how much of its attention each token of an answer gives to each patch of an image.

These are the attention weights of the gated cross-attention layers (arXiv 2407.14177, Sec. 3.1) in one pass over a
prompt and its answer. Temporary hooks compute them from the layers' own queries, keys and masks. The weights tell where
a layer reads, but not how much of that its gates let through. Shapes: T tokens of the answer, N patches, S visual
slots.
"""

from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
from PIL import Image

from ..modeling.images import ImageSource
from ..modes import evaluating
from .answer_pass import as_the_tower_sees, pass_over_answer


@dataclass(frozen=True, eq=False)
class AttendedPatches:
    """Holds the attention to one image for each token of one answer, as means over layers and heads.

    A token's attention is measured at the text position that predicts it, which is the one before it. The attention to
    the patches, the class token and the zero vectors sums to 1 for each token. All tensors are float32 and on the CPU.

    Args:
        tokens (list[str]): The T tokens of the answer as text, without the end-of-sequence token. Joined, they are the
            answer.
        patches_by_token (torch.Tensor): The attention to the patches, row by row, [T, N].
        class_by_token (torch.Tensor): The attention to the class token of the vision tower, [T].
        zero_by_token (torch.Tensor): The attention to the zero vectors, that is to nothing, [T].
        image (Image.Image): The image that the grids lie on: in mode RGB, resized and cropped as the vision tower sees
            it.
    """

    tokens: list[str]
    patches_by_token: torch.Tensor
    class_by_token: torch.Tensor
    zero_by_token: torch.Tensor
    image: Image.Image

    def grids(self, patches: torch.Tensor) -> list[torch.Tensor]:
        """Arrange values of patches as a grid.

        Args:
            patches (torch.Tensor): One value per patch, [..., N].

        Returns:
            The only grid, [..., side, side]. It is in a list because ``KeptTokens`` has several.
        """
        return [patches.unflatten(-1, (isqrt(patches.shape[-1]),) * 2)]


@torch.no_grad()
def attended_patches(model: Any, processor: Any, image: ImageSource, prompt: str, answer: str) -> AttendedPatches:
    """Measure the attention to an image in one pass over a prompt and its answer.

    Args:
        model (Any): An ``EvlmForConditionalGeneration``. It is left in the mode that it was in, and without hooks.
        processor (Any): Its ``EvlmProcessor``.
        image (ImageSource): The image.
        prompt (str): The text before the answer.
        answer (str): The answer. It follows the prompt as it stands, so it usually starts with a space.

    Returns:
        The attention by token.

    Raises:
        ValueError: There is no image, the answer has no text, nothing stands before the answer, or the sequence is
            longer than the model's window.
    """
    batch, positions, tokens = pass_over_answer(model, processor, image, prompt, answer)
    weights = attention_in_pass(model, batch, positions).mean(0)
    patches = model.config.grid**2
    return AttendedPatches(
        tokens=tokens,
        patches_by_token=weights[:, 1 : 1 + patches],
        class_by_token=weights[:, 0],
        zero_by_token=weights[:, 1 + patches :].sum(1),
        image=as_the_tower_sees(processor, image),
    )


@torch.no_grad()
def attention_in_pass(model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
    """Measure the attention of each cross-attention layer in one pass.

    Args:
        model (Any): An ``EvlmForConditionalGeneration``. It is left in the mode that it was in, and without hooks.
        batch (dict[str, torch.Tensor]): Its inputs for one row.
        positions (torch.Tensor): The T positions to measure.

    Returns:
        The mean weights over the heads of each of the L layers, [L, T, S], float32 and on the CPU.
    """
    found: list[torch.Tensor] = []  # one per layer, [T, S]
    handles = [
        layer.register_forward_pre_hook(partial(_look, found, positions)) for layer in model.adapter.cross_attention
    ]
    try:
        with evaluating(model):
            model(**batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)


def _look(found: list[torch.Tensor], positions: torch.Tensor, layer: Any, args: tuple) -> None:
    """Add the attention weights of a layer that is about to run to ``found``, as the mean over its heads."""
    hidden_states, memory, index = args
    query = layer._heads(layer.q_proj(layer.attn_norm(hidden_states)))  # [1, heads, all positions, head_dim]
    key = layer._heads(memory.key[index].to(query))  # [1, heads, S, head_dim]
    scores = (query @ key.transpose(2, 3)).float() / layer.head_dim**0.5
    weights = scores.masked_fill(~memory.slots.mask.to(scores.device), float("-inf")).softmax(-1)
    found.append(weights.mean(1)[0].cpu()[positions])
