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
from typing import NamedTuple

import torch
from torch import nn
from transformers import AutoConfig

from adem_vl_hf.modeling.configuration_base import FrozenBasesConfig
from adem_vl_hf.modeling.image_inputs import ImageRows
from adem_vl_hf.modeling.labels import NOT_SUPERVISED
from adem_vl_hf.modeling.modeling_adem_vl import AdemVLCausalLMOutputWithPast
from adem_vl_hf.modeling.modeling_base import FrozenBasesForConditionalGeneration
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor
from adem_vl_hf.modeling.vision import tower_blocks
from adem_vl_hf.modeling.visual_memory import CACHE, VisualMemory

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
            row.ids.insert(0, self.image_token_id)
            row.labels.insert(0, NOT_SUPERVISED)
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
    memory_arguments = {"image_embeds": "embeds"}
    adapts_tower = True

    def attach(self) -> None:
        """Put the routed adapters behind the norm of every layer's and every live block's attention."""
        for number, layer in enumerate(bind_layers(self.language_model)):
            layer.input_layernorm.register_forward_hook(partial(_adapt_text, self, number, layer))
        for number, block in enumerate(tower_blocks(self.vision_tower)[: len(self.adapter.vision_adapters)]):
            block.layer_norm1.register_forward_hook(partial(_adapt_tower, self, number))

    def look(self, pixel_values, image_mask, batch, ids=None):
        """Only input embeddings, [B, 1+k, D], the modality's among them: the layers read no memory."""
        rows = ImageRows.pair(pixel_values, image_mask, batch)
        embeds = self.adapter(self.features_of(rows), rows)
        return VisualMemory(None, None, embeds=embeds.to(self.get_input_embeddings().weight.dtype))

    def for_layers(self, memory, *text) -> tuple:
        """The layers read the routing, which ``forward`` hands over."""
        return {}, None

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
        image_embeds=None, labels=None, cache=None, without_head=False, **kwargs,
    ):  # fmt: skip
        """One pass; arguments as of ADEM-VL's. ``input_ids`` [B, T] as :class:`LavinProcessor` makes them.

        Raises:
            ValueError: a row without its modality token.
        """
        return_dict = kwargs.pop("return_dict", None)
        cache = past_key_values if cache is None else cache
        memory = None if image_embeds is None else VisualMemory(None, None, embeds=image_embeds)
        routing = getattr(cache, "routing", None)
        if routing is None:
            marks = input_ids == self.config.image_token_id
            if not marks.any(1).all():
                raise ValueError("a row of input_ids has no modality token: let LavinProcessor make it from the text")
            routing = Routing(marks.int().argmax(1), {}, False)
            if memory is None:
                memory = self.memory_for(input_ids, cache, pixel_values, image_mask)
        seen = 0 if cache is None else cache.get_seq_length()
        outputs, loss, logits, _ = self.read(
            memory,
            input_ids=input_ids,
            attention_mask=self._mask(attention_mask, routing.place, input_ids.shape[1], seen),
            cache=cache,
            labels=labels,
            without_head=without_head,
            visual_memory=routing,
            **kwargs,
        )
        if without_head:
            return outputs
        cache = outputs.get(CACHE)
        if cache is not None:
            cache.routing = routing._replace(known=True)
        out = AdemVLCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: cache},
        )
        return out.to_tuple() if return_dict is False else out


AutoConfig.register(LavinConfig.model_type, LavinConfig, exist_ok=True)
LAVIN = of_house(LavinForConditionalGeneration, LavinProcessor)
