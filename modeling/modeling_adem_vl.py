"""ADEM-VL (arXiv 2410.17779) for Transformers: a frozen decoder LLM sees through a frozen tower.

Parameter-free cross-attention in every layer of the language model, to a visual memory that is computed once.

Shapes: B batch, T text positions, S memory slots, D width of the language model, C width of the tower, N patches, n
images a row (at most), m input embeddings an image.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import GenerationMixin
from transformers.utils import TransformersKwargs, can_return_tuple

from .adapter_adem_vl import AdemVLAdapter
from .configuration_adem_vl import AdemVLConfig
from .decoder_scales import decoder_input_scale
from .forward_pass import SeeingCausalLMOutputWithPast
from .fused_layers import attach_fusion
from .fusion import memory_for_one_position
from .modeling_base import FrozenBasesForConditionalGeneration, FrozenBasesPreTrainedModel
from .vision import attach_vision_adapters
from .visual_memory import CACHE, VisualMemory, by_old_name

if TYPE_CHECKING:
    # never run: saving and loading find the files that travel together by these lines (4.57 looks no further than here)
    from .adapter_file import adapter_file  # noqa: F401
    from .arguments import library_fields  # noqa: F401
    from .base_sizes import read_base_config  # noqa: F401
    from .bases import load_language_model  # noqa: F401
    from .changed_bases import LoadedBases  # noqa: F401
    from .chat_parts import plain_part  # noqa: F401
    from .chat_rows import chat_passage  # noqa: F401
    from .checkpoint import AdapterCheckpointMixin  # noqa: F401
    from .configuration_base import FrozenBasesConfig  # noqa: F401
    from .decoder import decoder_layers  # noqa: F401
    from .drop_kernel import drop_smallest  # noqa: F401
    from .field_values import check_range  # noqa: F401
    from .fingerprints import base_fingerprint  # noqa: F401
    from .generation import VisualGenerationMixin  # noqa: F401
    from .image_forms import plain_form  # noqa: F401
    from .image_inputs import ImageRows  # noqa: F401
    from .images import open_image  # noqa: F401
    from .labels import NOT_SUPERVISED  # noqa: F401
    from .loaders import LoadersMixin  # noqa: F401
    from .lora_fields import complete_lora  # noqa: F401
    from .one_save import finish_save  # noqa: F401
    from .open_clip_tower import OpenClipVisionTower  # noqa: F401
    from .peft_adapters import find_peft_adapter  # noqa: F401
    from .pickles import PickledMixin  # noqa: F401
    from .pipeline import AdemVLImageToTextPipeline  # noqa: F401
    from .processing_adem_vl import AdemVLProcessor  # noqa: F401
    from .processor_options import sort_options  # noqa: F401
    from .processor_parts import load_tokenizer  # noqa: F401
    from .quantization import split_gguf  # noqa: F401
    from .reading import errors_naming  # noqa: F401
    from .row_layout import RowLayout  # noqa: F401
    from .supervised_loss import supervised_loss  # noqa: F401
    from .towers import find_tower  # noqa: F401
    from .trained_in_base import LoraMixin  # noqa: F401
    from .video_files import open_animation  # noqa: F401
    from .videos import open_video  # noqa: F401


@dataclass
class AdemVLCausalLMOutputWithPast(SeeingCausalLMOutputWithPast):
    """Outputs of the model: those of every model that sees, and the visual prompt.

    Args:
        image_hidden_states (Tensor | None): the visual prompt V, [B, S, D], when ``pixel_values`` are given.
    """

    image_hidden_states: torch.Tensor | None = None


class AdemVLPreTrainedModel(FrozenBasesPreTrainedModel):
    """Declare to Transformers what every ADEM-VL model is made of."""

    config_class = AdemVLConfig
    adapter_class = AdemVLAdapter


class AdemVLForConditionalGeneration(AdemVLPreTrainedModel, FrozenBasesForConditionalGeneration, GenerationMixin):
    """A frozen decoder LLM that sees.

    Build a fresh one with :meth:`from_base_pretrained`, load a trained one with :meth:`from_pretrained`.

    Args:
        config (AdemVLConfig): the configuration.
        language_model (PreTrainedModel | None): a loaded language model to adopt; None = built with fresh weights.
        vision_tower (nn.Module | None): a loaded vision tower to adopt; None = built with fresh weights.
    """

    auto_map = {
        "AutoConfig": "configuration_adem_vl.AdemVLConfig",
        "AutoModel": "modeling_adem_vl.AdemVLForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_adem_vl.AdemVLForConditionalGeneration",
        "AutoProcessor": "processing_adem_vl.AdemVLProcessor",
    }
    memory_arguments = {
        "visual_key": "key",
        "visual_value": "value",
        "visual_mask": "slots",
        "image_embeds": "embeds",
    }

    def attach(self) -> None:
        """Make every decoder layer add the fused term, and the tower's MLPs their adapters."""
        attach_fusion(self.language_model, self.config)
        self.input_scale = decoder_input_scale(self.language_model)
        if self.config.vision_adapter_dim:
            attach_vision_adapters(self.vision_tower, self, self.config.vision_adapter_scale)
            self.adapts_tower = True

    def for_layers(
        self,
        memory: VisualMemory,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        tokens_read: torch.Tensor | None,
    ) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Hand the memory itself to the layers, in the precision in which a pass of this length reads it fastest.

        Args:
            memory (VisualMemory): what this pass reads.
            input_ids (torch.Tensor | None): [B, T], the text.
            inputs_embeds (torch.Tensor | None): [B, T, D], the text where ``input_ids`` is None.
            tokens_read (torch.Tensor | None): unused: every position sees every slot.

        Returns:
            The layers' argument ``visual_memory``, and None.
        """
        text = inputs_embeds if input_ids is None else input_ids
        if text is not None and text.shape[1] == 1:
            memory = memory_for_one_position(memory)
        return {"visual_memory": memory}, None

    def get_visual_memory(
        self,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        batch_size: int | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """Compute what the layers attend to; ``forward`` and ``generate`` do so once, unless it is given to them.

        Args:
            pixel_values (torch.Tensor | None): [B, n, 3, H, W], or [B, 3, H, W] for one image a row.
            image_mask (torch.Tensor | None): [B, n] or [B] bool, images that exist (None = all); the others never reach
                the tower.
            batch_size (int | None): B, the rows of text; None = 1, or as many as there are in ``pixel_values``.

        Returns:
            ``visual_key`` and ``visual_value`` [B, n*S, D] in the language model's dtype, ``visual_mask`` [B, n*S] bool
            (None = every slot exists), ``image_embeds`` [B, n*m, D] or None, and ``image_hidden_states``, the visual
            prompt V [B, n*S, D] or None.

        Raises:
            ValueError: images and rows do not pair up, or a row has more images than frame embeddings.
        """
        batch_size = batch_size or (1 if pixel_values is None else pixel_values.shape[0])
        memory = self.look(pixel_values, image_mask, batch_size)
        assert memory is not None  # without an image it is the learned one
        named = {name: getattr(memory, field) for name, field in self.memory_arguments.items()}
        return {**named, "image_hidden_states": memory.prompt}

    @can_return_tuple
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
        cache: Any = None,
        without_head: bool = False,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> AdemVLCausalLMOutputWithPast | tuple:
        """Run one pass.

        Args:
            input_ids (torch.LongTensor | None): [B, T]; ``config.image_token_id`` marks where an image's embeddings go.
            pixel_values (torch.FloatTensor | None): [B, n, 3, H, W] or [B, 3, H, W].
            image_mask (torch.BoolTensor | None): [B, n] or [B], images that exist.
            attention_mask (torch.Tensor | None): the library's.
            position_ids (torch.LongTensor | None): the library's.
            past_key_values (Any): the key-value cache, by the library's name before Transformers 5.24.
            inputs_embeds (torch.Tensor | None): [B, T, D], in place of ``input_ids``.
            visual_key (torch.Tensor | None): with the next three, a memory that :meth:`get_visual_memory` computed
                before.
            visual_value (torch.Tensor | None): see ``visual_key``.
            visual_mask (torch.Tensor | None): see ``visual_key``.
            image_embeds (torch.Tensor | None): see ``visual_key``.
            labels (torch.LongTensor | None): [B, T], -100 = not supervised. In training mode the LM head runs on
                supervised positions only.
            use_cache (bool | None): the library's.
            logits_to_keep (int | torch.Tensor): the library's.
            cache (Any): the key-value cache, by the library's name since Transformers 5.24.
            without_head (bool): leave out the LM head and return the decoder's outputs, as ``base_model`` does.
            kwargs (Unpack[TransformersKwargs]): the library's, and the loss function's.

        Returns:
            The outputs; a tuple with ``return_dict=False``.

        Raises:
            ValueError: labels without a single supervised position, images that do not pair up with the rows, a row
                with more images than image tokens, no image token set.
        """
        if cache is None and past_key_values is not None:
            cache = by_old_name(past_key_values)
        if visual_key is None:
            text = inputs_embeds if input_ids is None else input_ids
            memory = self.memory_for(text, cache, pixel_values, image_mask)
        else:
            memory = VisualMemory(visual_key, visual_value, visual_mask, image_embeds)
        outputs, loss, logits, _ = self.read(
            memory,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
            labels=labels,
            logits_to_keep=logits_to_keep,
            without_head=without_head,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            **kwargs,
        )
        if without_head:
            return outputs
        return AdemVLCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=None if memory is None else memory.image_outputs,
            image_hidden_states=None if memory is None else memory.prompt,
            **{CACHE: outputs.get(CACHE)},
        )


AdemVLForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AdemVLForConditionalGeneration", "AdemVLPreTrainedModel"]
