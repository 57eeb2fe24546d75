"""ADEM-VL (arXiv 2410.17779) for Transformers: a frozen decoder LLM sees through a frozen CLIP tower.

Parameter-free cross-attention in every layer of the language model, to a visual memory that is computed once.

Shapes: B batch, T text positions, S memory slots, D width of the language model, C width of the tower, N patches, n
images a row (at most), m input embeddings an image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import GenerationMixin
from transformers.utils import ModelOutput, TransformersKwargs

from .configuration_adem_vl import AdemVLConfig
from .fused_layers import attach_fusion
from .fusion import AdemVLAdapter, memory_of_pass
from .image_inputs import check_image_tokens
from .modeling_base import FrozenBasesForConditionalGeneration, FrozenBasesPreTrainedModel, several_processes
from .vision import attach_vision_adapters

if TYPE_CHECKING:
    # never run: saving and loading find the files that travel together by these lines (4.57 looks no further than here)
    from .bases import base_fingerprint  # noqa: F401
    from .checkpoint import AdapterCheckpointMixin  # noqa: F401
    from .configuration_base import FrozenBasesConfig  # noqa: F401
    from .decoder import decoder_layers  # noqa: F401
    from .generation import VisualGenerationMixin  # noqa: F401
    from .images import open_image  # noqa: F401
    from .pipeline import AdemVLImageToTextPipeline  # noqa: F401
    from .precision import InputPrecisionLinear  # noqa: F401
    from .processing_adem_vl import AdemVLProcessor  # noqa: F401
    from .row_layout import RowLayout  # noqa: F401
    from .trained_in_base import LoraMixin  # noqa: F401
    from .videos import open_video  # noqa: F401


@dataclass
class AdemVLCausalLMOutputWithPast(ModelOutput):
    """Outputs of the model.

    Args:
        loss: next-token cross-entropy over the supervised positions, when ``labels`` are given.
        logits: [B, T, vocabulary]; None in training with labels, where only supervised positions are computed.
        past_key_values: the language model's cache.
        hidden_states, attentions: the language model's, when asked for.
        image_hidden_states: the visual prompt V, [B, S, D], when ``pixel_values`` are given.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    image_hidden_states: torch.Tensor | None = None


class AdemVLPreTrainedModel(FrozenBasesPreTrainedModel):
    """What Transformers needs to know of every ADEM-VL model."""

    config_class = AdemVLConfig
    adapter_class = AdemVLAdapter


class AdemVLForConditionalGeneration(AdemVLPreTrainedModel, FrozenBasesForConditionalGeneration, GenerationMixin):
    """A frozen decoder LLM that sees.

    Build a fresh one with :meth:`from_base_pretrained`, load a trained one with :meth:`from_pretrained`.

    Args:
        config: an ``AdemVLConfig``.
        language_model, vision_tower: loaded bases to adopt; built from the config with fresh weights when None.
    """

    auto_map = {
        "AutoConfig": "configuration_adem_vl.AdemVLConfig",
        "AutoModel": "modeling_adem_vl.AdemVLForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_adem_vl.AdemVLForConditionalGeneration",
        "AutoProcessor": "processing_adem_vl.AdemVLProcessor",
    }
    memory_names = ("visual_key", "visual_value", "visual_mask", "image_embeds")
    names_to_cache = ("image_embeds",)
    _memory_of_pass: Any = staticmethod(memory_of_pass)  # as the layers read it

    def _attach(self) -> None:
        attach_fusion(self.language_model, self.config)
        if self.config.vision_adapter_dim:
            attach_vision_adapters(self.vision_tower, self, self.config.vision_adapter_scale)

    def _tower_trains(self) -> bool:
        return self.config.vision_adapter_dim > 0 or super()._tower_trains()

    def get_visual_memory(
        self,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        batch_size: int | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """What the layers attend to, computed once per forward and once per ``generate``.

        Args:
            pixel_values: [B, n, 3, H, W], or [B, 3, H, W] for one image a row. image_mask: [B, n] or [B] bool, images
                that are there (default all; the others never reach the tower). batch_size: B, the rows of text (default
                1, or as many as there are in ``pixel_values``).

        Returns:
            ``visual_key`` and ``visual_value`` [B, n*S, D] in the language model's dtype, ``visual_mask`` [B, n*S] bool
            (None = every slot is there), ``image_embeds`` [B, n*m, D] or None, and ``image_hidden_states``, the visual
            prompt V [B, n*S, D] or None.

        Raises:
            ValueError: images and rows that do not pair up, more images than frame embeddings.
        """
        batch_size = batch_size or (1 if pixel_values is None else pixel_values.shape[0])
        features, image_mask = self._features_of_rows(pixel_values, image_mask, batch_size, always=several_processes())
        key, value, mask, visual, embeds = self.adapter(features, image_mask, batch_size)
        dtype = self.get_input_embeddings().weight.dtype
        return {
            "visual_key": key.to(dtype),
            "visual_value": value.to(dtype),
            "visual_mask": mask,
            "image_embeds": self._for_the_text(embeds, image_mask),
            "image_hidden_states": visual,
        }

    def _memory_for(self, given, pixel_values=None, image_mask=None, past_key_values=None) -> dict[str, Any]:
        """What a pass over ``given`` ([B, T] ids or [B, T, D] embeddings; None = one row) attends to.

        Without pixels it is what the text in the cache was read with, without its embeddings, if there is such a text.
        """
        if pixel_values is None and past_key_values is not None and past_key_values.get_seq_length():
            cached = getattr(past_key_values, "visual_memory", None)
            if cached is not None:
                return dict(zip(("visual_key", "visual_value", "visual_mask"), cached, strict=True))
        memory = self.get_visual_memory(pixel_values, image_mask, None if given is None else given.shape[0])
        fresh = pixel_values is not None and memory["image_embeds"] is not None and past_key_values is None
        if fresh and given is not None and given.dim() == 2:
            config = self.config
            check_image_tokens(given, config.image_token_id, config.image_tokens, pixel_values, image_mask)
        return memory

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        visual_key: torch.Tensor | None = None,
        visual_value: torch.Tensor | None = None,
        visual_mask: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> AdemVLCausalLMOutputWithPast | tuple:
        """One pass.

        Args:
            input_ids: [B, T]; ``config.image_token_id`` marks where an image's embeddings go.
            pixel_values: [B, n, 3, H, W] or [B, 3, H, W]. image_mask: [B, n] or [B], images that are there.
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, logits_to_keep: the library's.
            visual_key, visual_value, visual_mask, image_embeds: a memory computed before (:meth:`get_visual_memory`).
            labels: [B, T], -100 = not supervised. In training mode the LM head runs on supervised positions only.

        Raises:
            ValueError: labels without a single supervised position, images that do not pair up with the rows, a row
                with more images than image tokens, no image token set.
        """
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        memory: dict[str, Any] = {"image_embeds": image_embeds}
        given = input_ids if input_ids is not None else inputs_embeds
        if visual_key is None:
            memory |= self._memory_for(given, pixel_values, image_mask, past_key_values)
            visual_key, visual_value, visual_mask = (memory[name] for name in self.memory_names[:3])
        seen = (visual_key, visual_value, visual_mask)
        without_head = kwargs.pop("without_head", False)
        outputs, loss, logits = self._read(
            memory,
            {"visual_memory": seen if given is None else self._memory_of_pass(*seen, given.shape[1])},
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            labels=labels,
            logits_to_keep=logits_to_keep,
            without_head=without_head,
            **kwargs,
        )
        if without_head:
            return outputs
        if outputs.past_key_values is not None:
            outputs.past_key_values.visual_memory = seen
        out = AdemVLCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=memory.get("image_hidden_states"),
        )
        return out if return_dict else out.to_tuple()


AdemVLForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AdemVLForConditionalGeneration", "AdemVLPreTrainedModel"]
