"""LLaMA-Adapter (arXiv 2303.16199), the first version's multimodal form: ten prompts in the keys and values.

In the top layers (30 of 32), prompts P_l [10, D] plus one image vector I go through the layer's own frozen k and v
projections, without rotation; the text's rotated queries attend to them under a softmax of their own, times tanh of a
gate per head that starts at zero, and the result joins the attention's before the output projection. I is a bottleneck
of the tower's class tokens, concatenated. The paper says neither from which blocks nor how wide: four blocks, spread
evenly, and 64 here, with SiLU between; at 7B that makes 1.76M trained numbers, the paper states 1.8M.

Shapes: B batch, T text positions, I images, L layers with prompts, H heads, K prompts, D width of the language model.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from adem_vl_hf.modeling.adapter_adem_vl import LowRankProjector
from adem_vl_hf.modeling.configuration_base import FrozenBasesConfig
from adem_vl_hf.modeling.decoder import decoder_layers
from adem_vl_hf.modeling.image_inputs import ImageRows
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.visual_memory import VisualMemory

from .arm import of_house
from .class_tokens import ClassTokenFeatures, spread_levels
from .layers import MemoryAsItIs

LEVELS = 4  # blocks of the tower whose class tokens are concatenated


class LlamaAdapterConfig(FrozenBasesConfig):
    """Fields beside the bases'.

    Args:
        prompt_length: K. prompt_layers: L, the top ones (default all but the first two). projector_dim: width of the
            bottleneck. vision_feature_layer: hidden states whose class tokens it reads; default four, spread evenly.

    Raises:
        ValueError: more ``prompt_layers`` than the language model has.
    """

    model_type = "llama_adapter"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "image_outputs"]
    image_tokens = 0
    lora = None

    def __init__(
        self, text_config=None, vision_config=None, prompt_length=10, prompt_layers=None, projector_dim=64,
        vision_feature_layer=None, **kwargs,
    ):  # fmt: skip
        self.prompt_length = prompt_length
        self.projector_dim = projector_dim
        super().__init__(text_config, vision_config, **kwargs)
        layers = self.text_config.num_hidden_layers
        self.prompt_layers = prompt_layers or max(1, layers - 2)
        if not 1 <= self.prompt_layers <= layers:
            raise ValueError(f"prompt_layers={self.prompt_layers}: the language model has {layers}; give 1 to {layers}")
        self.vision_feature_layer = vision_feature_layer or spread_levels(self.vision_config.num_hidden_layers, LEVELS)


class LlamaAdapter(nn.Module):
    """Everything that trains."""

    def __init__(self, config) -> None:
        super().__init__()
        text, layers = config.text_config, config.prompt_layers
        self.prompts = nn.Parameter(torch.empty(layers, config.prompt_length, text.hidden_size))
        self.gates = nn.Parameter(torch.empty(layers, text.num_attention_heads))
        seen = len(config.vision_feature_layer) * config.vision_config.hidden_size
        self.projector = LowRankProjector(seen, config.projector_dim, text.hidden_size)

    @torch.no_grad()
    def reset(self) -> None:
        """Prompts N(0, 1) as of an embedding, gates zero, projector Xavier."""
        nn.init.normal_(self.prompts)
        nn.init.zeros_(self.gates)
        for linear in (self.projector.fc1, self.projector.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, features: torch.Tensor | None, rows: ImageRows):
        """Prompts [B, L, K, D] and tanh of the gates [L, H] for features [I, k, C]; without an image, P_l alone."""
        prompts = self.prompts.expand(rows.batch, -1, -1, -1)
        if features is not None:
            seen = self.projector(features.flatten(1).to(self.prompts.dtype))  # [I, D]
            (seen,) = rows.spread(seen)  # [B, n, D]
            prompts = prompts + seen.sum(1)[:, None, None]
        return prompts, self.gates.tanh()


def _attend(attention, module, query, key, value, attention_mask, *args, visual_memory=None, scaling=None, **kwargs):
    """An attention function of Transformers' interface: ``attention``, and the prompts where the layer has some."""
    output, weights = attention(module, query, key, value, attention_mask, *args, scaling=scaling, **kwargs)
    if visual_memory is None:
        return output, weights
    prompt_key, gated_value, *_ = visual_memory  # [B, L, H, K, head size]
    number = module.layer_idx - module.config.num_hidden_layers + prompt_key.shape[1]
    if number < 0:
        return output, weights
    added = F.scaled_dot_product_attention(query, prompt_key[:, number], gated_value[:, number], scale=scaling)
    return output + added.transpose(1, 2), weights  # [B, T, H, head size]


for _name, _attention in (("sdpa", ALL_ATTENTION_FUNCTIONS["sdpa"]), ("eager", eager_attention_forward)):
    AttentionInterface.register(f"llama_adapter_{_name}", partial(_attend, _attention))
    AttentionMaskInterface.register(f"llama_adapter_{_name}", ALL_MASK_ATTENTION_FUNCTIONS[_name])


class LlamaAdapterForConditionalGeneration(MemoryAsItIs, ClassTokenFeatures, AdemVLForConditionalGeneration):
    """A frozen language model with gated visual prompts. The forward is ADEM-VL's: a memory, computed once."""

    config_class = LlamaAdapterConfig
    adapter_class = LlamaAdapter
    auto_map: dict[str, str] = {}
    _auto_class = None

    def attach(self) -> None:
        """Raises ValueError for a language model whose attention is neither ``sdpa`` nor ``eager``."""
        decoder_layers(self.language_model)  # complains where there are none
        name = self.language_model.config._attn_implementation
        if name not in ("sdpa", "eager"):
            raise ValueError(f"attn_implementation is {name!r}; load the language model with 'sdpa' or 'eager'")
        self.language_model.set_attn_implementation(f"llama_adapter_{name}")

    def see(self, features, rows):
        """Key and value [B, L, H, K, head size] of the prompts, the value times its gate."""
        prompts, gates = self.adapter(features, rows)
        prompts = prompts.to(self.get_input_embeddings().weight.dtype)
        attention = [layer.self_attn for layer in decoder_layers(self.language_model)[-prompts.shape[1] :]]
        key = torch.stack([part.k_proj(prompts[:, i]) for i, part in enumerate(attention)], dim=1)
        value = torch.stack([part.v_proj(prompts[:, i]) for i, part in enumerate(attention)], dim=1)
        key, value = (self._heads(x, attention[0]) for x in (key, value))
        value = value * gates[:, :, None, None].to(value.dtype)
        return VisualMemory(key, value)

    def _heads(self, x: torch.Tensor, attention: nn.Module) -> torch.Tensor:
        """[B, L, K, key-value heads x size] -> [B, L, H, K, size]."""
        x = x.unflatten(-1, (-1, attention.head_dim)).transpose(2, 3)
        return x.repeat_interleave(self.config.text_config.num_attention_heads // x.shape[2], dim=2)


AutoConfig.register(LlamaAdapterConfig.model_type, LlamaAdapterConfig, exist_ok=True)
LLAMA_ADAPTER = of_house(LlamaAdapterForConditionalGeneration)
