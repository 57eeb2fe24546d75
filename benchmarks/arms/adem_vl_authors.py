"""ADEM-VL (arXiv 2410.17779) computed step by step as the authors' code does; the same numbers as this package's.

Every layer, in every step of generation, adds the learned embeddings to the visual prompt and maps the keys again,
sorts all scores for the threshold and multiplies by the mask; training computes the logits of every position.

Shapes: B batch, T text positions, S memory slots, D width of the language model.
"""

from functools import partial

import torch
from torch import nn

from adem_vl_hf.counting import count_adapter_parameters, count_as_published
from adem_vl_hf.modeling.adapter_adem_vl import AdemVLAdapter
from adem_vl_hf.modeling.fusion import kernel_map
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.vision import attach_vision_adapters
from adem_vl_hf.modeling.visual_memory import VisualMemory

from .arm import of_house
from .layers import MemoryAsItIs, attach_beside_mlp


class VisualPromptAdapter(AdemVLAdapter):
    """The same trained tensors; what the layers are handed is the visual prompt V, not the memory."""

    def memory(self, prompt, rows):
        """V [B, S, D], of zeros without images, in the places of key, value and visual prompt. One image a row."""
        if prompt is None:
            visual = torch.zeros_like(self.key_embedding).expand(rows.batch, -1, -1)
        else:
            visual = prompt.flatten(1, 2)
        return VisualMemory(visual, visual, prompt=visual)


def fused_term(owner: nn.Module, hidden_states: torch.Tensor, memory: VisualMemory) -> torch.Tensor:
    """[B, T, D] from the MLP's input [B, T, D] and V [B, S, D]."""
    adapter, config, visual = owner.adapter, owner.config, memory.key
    key = kernel_map(visual + adapter.key_embedding, config.kernel).to(hidden_states.dtype)
    value = (visual + adapter.value_embedding).to(hidden_states.dtype)
    scores = kernel_map(hidden_states, config.kernel) @ key.transpose(1, 2)  # [B, T, S]
    if config.drop_ratio > 0:
        ranked, _ = torch.sort(scores, dim=2)
        place = int(config.drop_ratio * scores.shape[2])
        scores = scores * (scores >= ranked[:, :, place : place + 1]).to(scores.dtype)
    return config.fusion_scale * (scores @ value)


class AuthorsAdemVLForConditionalGeneration(MemoryAsItIs, AdemVLForConditionalGeneration):
    """ADEM-VL with the authors' order of computation, for the paper's places (from the MLP's input to its output)."""

    adapter_class = VisualPromptAdapter
    _auto_class = None
    has_plain_head = False  # the LM head runs on every position

    def attach(self) -> None:
        attach_beside_mlp(self.language_model, partial(fused_term, self))
        if self.config.vision_adapter_dim:
            attach_vision_adapters(self.vision_tower, self, self.config.vision_adapter_scale)
            self.adapts_tower = True


def unused_adem_vl(config) -> int:
    """Of the tower adapters that the authors count, those on which no feature depends."""
    return count_as_published(config) - count_adapter_parameters(config)


ADEM_VL = of_house(AdemVLForConditionalGeneration, unused=unused_adem_vl)
ADEM_VL_AUTHORS = of_house(AuthorsAdemVLForConditionalGeneration, unused=unused_adem_vl)
