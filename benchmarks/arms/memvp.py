"""MemVP (arXiv 2405.05615): the visual prompt as more entries of the frozen MLPs' key-value memory.

In every layer, ``h + MLP(n) + 0.1 drop(silu(n (V + E_key)^T)) (V + E_value)`` with n the MLP's input. V and the learned
E_key ~ N(0, 0.02^2) and E_value = 0 are shared by all layers; V is zero in the slots beyond the patches. Bottleneck
adapters beside the tower's MLPs and the low-rank projector are those of ADEM-VL. No token of the text is spent.

Shapes: B batch, T text positions, N patches, S >= N memory slots, D width of the language model.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig

from adem_vl_hf.modeling.adapter_adem_vl import AdemVLAdapter
from adem_vl_hf.modeling.configuration_adem_vl import AdemVLConfig
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.vision import attach_vision_adapters
from adem_vl_hf.modeling.visual_memory import VisualMemory

from .adem_vl_authors import unused_adem_vl
from .arm import of_house
from .layers import attach_beside_mlp


class MemVPConfig(AdemVLConfig):
    """Fields of ADEM-VL, without what MemVP does not have.

    Args:
        memory_slots: S; default a quarter more than there are patches (320 at 7B; the authors take 400 at 13B).
        score_dropout: of the scores, in training.
        kwargs: ``use_cls_token`` (default False), ``vision_feature_layer``, ``fusion_scale``, ``visual_scale``,
            ``projector_dim``, ``vision_adapter_*``.

    Raises:
        ValueError: fewer slots than patches.
    """

    model_type = "memvp"
    _auto_class = None

    def __init__(self, text_config=None, vision_config=None, memory_slots=None, score_dropout=0.1, **kwargs):
        without = {"drop_ratio": 0.0, "kernel": "none", "visual_token_counts": None}
        super().__init__(text_config, vision_config, **{"use_cls_token": False, **kwargs, **without})
        patches = self.grid**2
        self.visual_token_counts = [patches]
        self.memory_slots = memory_slots or patches + patches // 4
        self.score_dropout = score_dropout
        if self.memory_slots < patches:
            raise ValueError(f"memory_slots={self.memory_slots} do not hold {patches} patches; give at least as many")

    @property
    def memory_size(self) -> int:
        """S, the slots of the learned embeddings."""
        return self.memory_slots


class MemVPAdapter(AdemVLAdapter):
    """ADEM-VL's tensors without the class token's projector; the memory of one image a row."""

    def visual_prompt(self, features, rows):
        """V [I, S, D]: the patches, and zeros in the slots behind them."""
        visual = self.config.visual_scale * self.visual_projector(features[:, 1:])  # [I, N, D]
        return F.pad(visual, (0, 0, 0, self.config.memory_slots - visual.shape[1]))

    def memory(self, prompt, rows):
        """Key V + E_key and value 0.1 (V + E_value), [B, S, D] each."""
        key, value = self.key_embedding, self.value_embedding  # [1, S, D]
        if prompt is not None:
            prompt = prompt.flatten(1, 2)  # [B, S, D]
            key, value = prompt + key, prompt + value
        value = self.config.fusion_scale * value
        return VisualMemory(key.expand(rows.batch, -1, -1), value.expand(rows.batch, -1, -1), prompt=prompt)


def memory_term(owner: nn.Module, hidden_states: torch.Tensor, memory: VisualMemory) -> torch.Tensor:
    """[B, T, D] from the MLP's input [B, T, D] and key and value [B, S, D]."""
    key, value = memory.key, memory.value
    scores = F.silu(hidden_states.to(key.dtype) @ key.transpose(1, 2))  # [B, T, S]
    return (F.dropout(scores, owner.config.score_dropout, owner.training) @ value).to(hidden_states.dtype)


class MemVPForConditionalGeneration(AdemVLForConditionalGeneration):
    """A frozen language model with visual entries in its MLPs' memory."""

    config_class = MemVPConfig
    adapter_class = MemVPAdapter
    auto_map: dict[str, str] = {}
    _auto_class = None

    def attach(self) -> None:
        attach_beside_mlp(self.language_model, partial(memory_term, self))
        if self.config.vision_adapter_dim:
            attach_vision_adapters(self.vision_tower, self, self.config.vision_adapter_scale)
            self.adapts_tower = True


def unused(config) -> int:
    """What the authors count and nothing uses: adapters behind the features, and a modality embedding [2, D]."""
    return unused_adem_vl(config) + 2 * config.text_config.hidden_size


AutoConfig.register(MemVPConfig.model_type, MemVPConfig, exist_ok=True)
MEMVP = of_house(MemVPForConditionalGeneration, unused=unused)
