"""Where an EVLM looks: how much of its attention each word gave to each patch of a picture.

What is measured are the weights of the gated cross-attention layers (arXiv 2407.14177, Sec. 3.1) in one pass over a
prompt and its answer, worked out by temporary hooks from the layers' own queries, keys and masks. They say where a
layer took from, not how much of it its gates let through. Shapes: T tokens of the answer, N patches, S visual slots.
"""

from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
from PIL import Image

from ..modeling.images import ImageSource
from .kept_tokens import as_the_tower_sees, pass_over_answer


@dataclass(frozen=True, eq=False)
class AttendedPatches:
    """Where the attention went while one answer was said, mean over layers and heads; float32 tensors on the CPU.

    A token belongs to the text position that predicts it, the one before it. Patches, class token and zero vectors
    together have all of a token's attention, 1.

    Args:
        tokens: the T tokens of the answer as text, without the end-of-sequence token; joined they are the answer.
        patches_by_token: [T, N], row by row.
        class_by_token: [T], on the tower's class token. zero_by_token: [T], on the zero vectors: on nothing.
        picture: RGB, as the tower sees it, resized and cropped: what the grids lie on.
    """

    tokens: list[str]
    patches_by_token: torch.Tensor
    class_by_token: torch.Tensor
    zero_by_token: torch.Tensor
    picture: Image.Image

    def grids(self, patches: torch.Tensor) -> list[torch.Tensor]:
        """[..., N] as one grid [..., side, side], in a list as those of ``KeptTokens``."""
        return [patches.unflatten(-1, (isqrt(patches.shape[-1]),) * 2)]


@torch.no_grad()
def attended_patches(model: Any, processor: Any, image: ImageSource, prompt: str, answer: str) -> AttendedPatches:
    """One pass over ``prompt + answer`` (as they stand, so the answer usually starts with a space) with one picture.

    Args:
        model: an ``EvlmForConditionalGeneration``; it is left as it was, in its mode and without hooks.
        processor: its ``EvlmProcessor``.

    Raises:
        ValueError: no image, an answer without text, a prompt that leaves nothing before the answer, or a row longer
            than the window.
    """
    batch, positions, tokens = pass_over_answer(model, processor, image, prompt, answer)
    found: list[torch.Tensor] = []  # per layer, [T, S]
    handles = [
        layer.register_forward_pre_hook(partial(_look, found, positions)) for layer in model.adapter.cross_attention
    ]
    training = model.training
    model.eval()
    try:
        model(**batch, use_cache=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    weights = torch.stack(found).mean(0)
    patches = model.config.grid**2
    return AttendedPatches(
        tokens=tokens,
        patches_by_token=weights[:, 1 : 1 + patches],
        class_by_token=weights[:, 0],
        zero_by_token=weights[:, 1 + patches :].sum(1),
        picture=as_the_tower_sees(processor, image),
    )


def _look(found: list[torch.Tensor], positions: torch.Tensor, layer: Any, args: tuple) -> None:
    """The attention weights of a layer that is about to run, mean over its heads."""
    hidden_states, states, index = args
    query = layer._heads(layer.q_proj(layer.attn_norm(hidden_states)))  # [1, heads, all positions, head_dim]
    key = layer._heads(states.key[index].to(query))  # [1, heads, S, head_dim]
    scores = (query @ key.transpose(2, 3)).float() / layer.head_dim**0.5
    weights = scores.masked_fill(~states.mask.to(scores.device), float("-inf")).softmax(-1)
    found.append(weights.mean(1)[0].cpu()[positions])
