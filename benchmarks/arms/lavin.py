"""LaVIN (arXiv 2305.15023): mixture-of-modality adapters in both frozen bases, class tokens as words.

Before the attention of every layer of the language model and every block of the tower stands ``A(z) = z + w0 B(Az) +
w1 D(Az)``: A to 8 channels, B and D back in two groups, zero at the start; w is a softmax of a linear map of one token:
the tower's class token, and in the text a learned modality embedding (with or without an image), which comes first in
the row. The text's later tokens do not see it. An image is six tokens of the text, the class tokens of six blocks.

The authors' code takes the tower's routing from batch element 0 for the whole batch (its tensors are [N, B, C] there);
here every image is routed by its own class token, so that a row does not depend on its neighbours.

Shapes: B batch, T text positions, K positions seen, k class tokens an image, D width of the language model.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig

from adem_vl_hf.modeling.configuration_base import FrozenBasesConfig
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLCausalLMOutputWithPast
from adem_vl_hf.modeling.modeling_base import FrozenBasesForConditionalGeneration, several_processes
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor
from adem_vl_hf.modeling.vision import tower_blocks

from .arm import of_house
from .class_tokens import ClassTokenFeatures, spread_levels
from .lavin_adapter import LavinAdapter
from .layers import bind_layers


class LavinConfig(FrozenBasesConfig):
    """Fields beside the bases'.

    Args:
        adapter_dim: channels of the routed adapters, even. routing_temperature: 10 at 7B, 5 at 13B.
        projector_dim: width of the low-rank projector. vision_feature_layer: hidden states whose class tokens an image
            becomes, ascending; default six, spread evenly.

    Raises:
        ValueError: an odd ``adapter_dim``.
    """

    model_type = "lavin"
    lora = None
    adapter_fields = ("adapter_dim", "adapter_dropout", "routing_temperature", "projector_dim", "vision_feature_layer")

    def __init__(
        self, text_config=None, vision_config=None, adapter_dim=8, adapter_dropout=0.1, routing_temperature=10.0,
        projector_dim=128, vision_feature_layer=None, **kwargs,
    ):  # fmt: skip
        self.adapter_dim = adapter_dim
        self.adapter_dropout = adapter_dropout
        self.routing_temperature = routing_temperature
        self.projector_dim = projector_dim
        super().__init__(text_config, vision_config, **kwargs)
        self.vision_feature_layer = vision_feature_layer or spread_levels(self.vision_config.num_hidden_layers, 6)
        if adapter_dim < 2 or adapter_dim % 2:
            raise ValueError(f"adapter_dim={adapter_dim} does not fall into two equal groups; give an even number")

    @property
    def image_tokens(self) -> int:
        """k."""
        return len(self.vision_feature_layer)


class LavinProcessor(AdemVLProcessor):
    """Every row begins with an image token, in whose place the model puts the modality embedding."""

    _auto_class = None

    def _pad(self, rows, *args):
        for row in rows:
            row.prompt.insert(0, self.image_token_id)
            row.offsets.insert(0, (0, 0))
        return super()._pad(rows, *args)


class Routing(NamedTuple):
    """Where each row's modality token is [B], the layers' w [B, 2] by number, and whether they are known already."""

    place: torch.Tensor
    weights: dict[int, torch.Tensor]
    known: bool


def _adapt_text(owner, number: int, layer: nn.Module, norm: nn.Module, args: tuple, output: torch.Tensor):
    routing, adapter = layer.visual_memory, owner.adapter.text_adapters[number]
    if not routing.known:
        rows = torch.arange(len(output), device=output.device)
        routing.weights[number] = adapter.route(output[rows, routing.place.to(output.device)])
    return adapter(output, routing.weights[number])


def _adapt_tower(owner, number: int, norm: nn.Module, args: tuple, output: torch.Tensor):
    adapter = owner.adapter.vision_adapters[number]
    return adapter(output, adapter.route(output[:, 0]))


class LavinForConditionalGeneration(ClassTokenFeatures, FrozenBasesForConditionalGeneration):
    """A frozen language model and a frozen tower with routed adapters. At most one image a row."""

    config_class = LavinConfig
    adapter_class = LavinAdapter
    auto_map: dict[str, str] = {}
    memory_names = names_to_cache = ("image_embeds",)

    def _attach(self) -> None:
        for number, layer in enumerate(bind_layers(self.language_model)):
            layer.input_layernorm.register_forward_hook(partial(_adapt_text, self, number, layer))
        for number, block in enumerate(tower_blocks(self.vision_tower)[: len(self.adapter.vision_adapters)]):
            block.layer_norm1.register_forward_hook(partial(_adapt_tower, self, number))

    def _tower_trains(self) -> bool:
        return True

    def _memory_for(self, given, pixel_values=None, image_mask=None, past_key_values=None) -> dict[str, Any]:
        """``image_embeds`` [B, 1+k, D], once per forward and once per ``generate``."""
        features, image_mask = self._features_of_rows(pixel_values, image_mask, len(given), several_processes())
        embeds = self.adapter(features, image_mask, len(given))
        return {"image_embeds": embeds.to(self.get_input_embeddings().weight.dtype)}

    def _mask(self, attention_mask: torch.Tensor | None, place: torch.Tensor, new: int, seen: int) -> torch.Tensor:
        """[B, 1, T, K], 0 or the dtype's minimum: causal, and the modality token is seen by itself alone."""
        keys = torch.arange(seen + new, device=place.device)  # [K]
        queries = keys[seen:, None]  # [T, 1]
        there = keys != place[:, None]  # [B, K]
        if attention_mask is not None:
            there = there & attention_mask.to(there.device, torch.bool)
        allowed = ((keys <= queries) & there[:, None]) | (keys == queries)  # [B, T, K]
        dtype = self.get_input_embeddings().weight.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=place.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )[:, None]

    def forward(
        self, input_ids=None, pixel_values=None, image_mask=None, attention_mask=None, past_key_values=None,
        image_embeds=None, labels=None, **kwargs,
    ):  # fmt: skip
        """One pass; arguments as of ADEM-VL's. ``input_ids`` [B, T] as :class:`LavinProcessor` makes them.

        Raises:
            ValueError: a row without its modality token.
        """
        return_dict, without_head = kwargs.pop("return_dict", None), kwargs.pop("without_head", False)
        routing = getattr(past_key_values, "routing", None)
        if routing is None:
            marks = input_ids == self.config.image_token_id
            if not marks.any(1).all():
                raise ValueError("a row of input_ids has no modality token: let LavinProcessor make it from the text")
            routing = Routing(marks.int().argmax(1), {}, False)
            if image_embeds is None:
                image_embeds = self._memory_for(input_ids, pixel_values, image_mask)["image_embeds"]
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        outputs, loss, logits = self._read(
            {"image_embeds": image_embeds},
            {"visual_memory": routing},
            input_ids=input_ids,
            attention_mask=self._mask(attention_mask, routing.place, input_ids.shape[1], seen),
            past_key_values=past_key_values,
            labels=labels,
            without_head=without_head,
            **kwargs,
        )
        if without_head:
            return outputs
        if outputs.past_key_values is not None:
            outputs.past_key_values.routing = routing._replace(known=True)
        out = AdemVLCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return out.to_tuple() if return_dict is False else out


AutoConfig.register(LavinConfig.model_type, LavinConfig, exist_ok=True)
LAVIN = of_house(LavinForConditionalGeneration, LavinProcessor)
