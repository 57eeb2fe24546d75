"""EVLM (arXiv 2407.14177) for Transformers: gated cross-attention from a frozen LLM to levels of a frozen tower.

Same house as ADEM-VL (``modeling_base``). Keys and values of all cross-attention layers are computed once, before the
language model runs, and are kept in its cache.

Shapes: B batch, T text positions, n images a row (at most), L cross-attention layers, S visual slots, W width of the
cross-attention, D width of the language model, m media tokens an image, E experts.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import GenerationMixin
from transformers.utils import TransformersKwargs, can_return_tuple

from .adapter_evlm import EvlmAdapter
from .configuration_evlm import EvlmConfig
from .cross_attention import attach_cross_attention, balance, casts_kept
from .decoder_scales import decoder_input_scale
from .forward_pass import SeeingCausalLMOutputWithPast
from .image_inputs import ImageRows, image_token_mask
from .modeling_base import FrozenBasesForConditionalGeneration, FrozenBasesPreTrainedModel
from .trained_in_base import unfreeze_blocks
from .visibility import SlotVisibility, append_images, visibility
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
    from .field_values import check_range  # noqa: F401
    from .fingerprints import base_fingerprint  # noqa: F401
    from .generation import VisualGenerationMixin  # noqa: F401
    from .image_forms import plain_form  # noqa: F401
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
    from .processing_evlm import EvlmProcessor  # noqa: F401
    from .processor_options import sort_options  # noqa: F401
    from .processor_parts import load_tokenizer  # noqa: F401
    from .quantization import split_gguf  # noqa: F401
    from .reading import errors_naming  # noqa: F401
    from .row_layout import RowLayout  # noqa: F401
    from .supervised_loss import supervised_loss  # noqa: F401
    from .towers import find_tower  # noqa: F401
    from .video_files import open_animation  # noqa: F401
    from .videos import open_video  # noqa: F401
    from .vision import tower_blocks  # noqa: F401


@dataclass
class EvlmCausalLMOutputWithPast(SeeingCausalLMOutputWithPast):
    """Outputs of the model: those of every model that sees, and what the router of the experts did.

    ``loss`` has the weighted ``aux_loss`` in it.

    Args:
        aux_loss (FloatTensor | None): load-balancing loss, mean over the layers; 1 = all experts are used alike.
        router_logits (tuple[FloatTensor, ...] | None): [B, T, E] for each cross-attention layer, with
            ``output_router_logits=True``.
        router_load (FloatTensor | None): [L, E], the share of the choices that fell on each expert.
    """

    aux_loss: torch.FloatTensor | None = None
    router_logits: tuple[torch.FloatTensor, ...] | None = None
    router_load: torch.FloatTensor | None = None


class EvlmPreTrainedModel(FrozenBasesPreTrainedModel):
    """Declare to Transformers what every EVLM model is made of."""

    config_class = EvlmConfig
    adapter_class = EvlmAdapter
    input_modalities = ("image", "video", "text")


class EvlmForConditionalGeneration(EvlmPreTrainedModel, FrozenBasesForConditionalGeneration, GenerationMixin):
    """A frozen decoder LLM that sees images and videos.

    Build a fresh one with :meth:`from_base_pretrained`, load a trained one with :meth:`from_pretrained`.

    Args:
        config (EvlmConfig): the configuration.
        language_model (PreTrainedModel | None): a loaded language model to adopt; None = built with fresh weights.
        vision_tower (nn.Module | None): a loaded vision tower to adopt; None = built with fresh weights.
    """

    auto_map = {
        "AutoConfig": "configuration_evlm.EvlmConfig",
        "AutoModel": "modeling_evlm.EvlmForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_evlm.EvlmForConditionalGeneration",
        "AutoProcessor": "processing_evlm.EvlmProcessor",
    }
    memory_arguments = {
        "visual_key": "key",
        "visual_value": "value",
        "visual_slots": "slots",
        "video_mask": "all_frames",
        "image_embeds": "embeds",
    }
    image_arguments = ("pixel_values", "image_mask", "video_mask")

    def attach(self) -> None:
        """Put a cross-attention layer before every n-th decoder layer."""
        if self.config.media_tokens:
            self.input_scale = decoder_input_scale(self.language_model)
        attach_cross_attention(self.language_model, self, self.config.cross_attention_interval)

    def upcycle(self, moe_replicas: int = 4, moe_slices: int = 4, moe_top_k: int = 4) -> "EvlmForConditionalGeneration":
        """Turn a dense model into a mixture of experts that computes the same (Sec. 3.3 of the paper: upcycling).

        The dense feed-forward part becomes the expert that is always on; the routed experts are its slices, added
        through a gate that starts at zero.

        Args:
            moe_replicas (int): copies of the feed-forward part to make experts of.
            moe_slices (int): experts that a copy is cut into.
            moe_top_k (int): experts that each position uses.

        Returns:
            The model itself.

        Raises:
            ValueError: it has experts already, or the numbers do not fit one another.
        """
        config = self.config
        if config.moe_replicas:
            raise ValueError(f"this model has {config.num_experts} experts already; upcycle a dense one")
        slices = config.moe_slices, config.moe_top_k
        config.moe_replicas, config.moe_slices, config.moe_top_k = moe_replicas, moe_slices, moe_top_k
        width = self.adapter.cross_attention[0].ffn.fc1.out_features
        try:
            config.check_numbers()
            if moe_replicas < 1 or config.ffn_dim != width:
                raise ValueError(
                    f"a feed-forward part of width {width} has no {moe_slices} equal slices, or moe_replicas="
                    f"{moe_replicas} is none"
                )
        except ValueError:
            config.moe_replicas, config.moe_slices, config.moe_top_k = 0, *slices
            raise
        self.adapter.upcycle()
        return self

    def unfreeze_vision_blocks(self, number: int) -> "EvlmForConditionalGeneration":
        """Let the tower's last blocks train too, as in the paper's second stage; they are then saved with the adapter.

        Args:
            number (int): how many of the tower's last blocks train from now on.

        Returns:
            The model itself.

        Raises:
            ValueError: fewer than train already, or more than the tower has.
        """
        unfreeze_blocks(self, number)
        return self

    def tower_always_runs(self) -> bool:
        """Say whether the tower runs for batches without images, too: in training such a batch would train nothing."""
        return (self.training and torch.is_grad_enabled()) or super().tower_always_runs()

    def see(
        self, features: torch.Tensor | None, rows: ImageRows, video_mask: torch.Tensor | None = None
    ) -> VisualMemory | None:
        """Compute the keys and values of all cross-attention layers.

        Args:
            features (torch.Tensor | None): [I, k, 1+N, C], the levels of the I images; None where there is no image.
            rows (ImageRows): the rows that the images belong to.
            video_mask (torch.Tensor | None): [B] bool, rows whose images are the frames of a video.

        Returns:
            The memory, with ``all_frames`` [B]; None where there is no image.
        """
        if features is None:
            return None
        memory = self.adapter(features, rows)
        every = torch.full_like(memory.slots[:, 0], self.config.mask_mode == "all_frames", dtype=torch.bool)  # [B]
        return memory._replace(all_frames=every if video_mask is None else every | video_mask.to(every.device))

    def join(self, before: VisualMemory, new: VisualMemory) -> VisualMemory:
        """Append new images to those that the text in the cache was read with.

        Args:
            before (VisualMemory): what the cache holds.
            new (VisualMemory): what this call gives.

        Returns:
            Both.
        """
        return append_images(before, new)

    def for_layers(
        self,
        memory: VisualMemory,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        tokens_read: torch.Tensor | None,
    ) -> tuple[dict[str, Any], torch.Tensor | None]:
        """Split keys and values by layer, and say which slots each position sees.

        Args:
            memory (VisualMemory): what this pass reads.
            input_ids (torch.Tensor | None): [B, T], the text.
            inputs_embeds (torch.Tensor | None): [B, T, D], the text where ``input_ids`` is None.
            tokens_read (torch.Tensor | None): [B], image tokens of the text in the cache; None = no text is there.

        Returns:
            The layers' argument ``visual_memory``, and the image tokens read after this pass, [B].
        """
        slots = memory.slots  # [B, S]
        embed, token = self.language_model.get_input_embeddings(), self.config.image_token_id
        marks = image_token_mask(input_ids, inputs_embeds, embed, token)  # [B, T]
        read = torch.zeros_like(slots[:, 0]) if tokens_read is None else tokens_read
        mask, seen, read = visibility(
            marks.to(slots.device), slots, read, self.config.image_tokens, memory.all_frames
        )  # [B, 1, T, S], [B, T], [B]
        # at once: the backward of picking one layer after another would fill a tensor of all layers each time
        split = memory._replace(
            key=memory.key.unbind(1), value=memory.value.unbind(1), slots=SlotVisibility(mask, seen), embeds=None
        )
        return {"visual_memory": split}, read

    def get_visual_memory(
        self,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        batch_size: int | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """Compute what the layers attend to; ``forward`` and ``generate`` do so once, unless it is given to them.

        Args:
            pixel_values (torch.Tensor | None): [B, n, 3, H, W], or [B, 3, H, W] for one image a row.
            image_mask (torch.Tensor | None): [B, n] or [B] bool, images that exist (None = all); the others never reach
                the tower.
            video_mask (torch.Tensor | None): [B] bool, rows whose images are the frames of a video.
            batch_size (int | None): B, the rows of text; None = 1, or as many as there are in ``pixel_values``.

        Returns:
            ``visual_key`` and ``visual_value`` [B, L, S, W] in the language model's dtype, ``visual_slots`` [B, S],
            ``video_mask`` [B], ``image_embeds`` [B, n*m, D] or None. An empty dict where there is no image at all.

        Raises:
            ValueError: images and rows do not pair up, or a row has more images than frame embeddings.
        """
        batch_size = batch_size or (1 if pixel_values is None else pixel_values.shape[0])
        memory = self.look(pixel_values, image_mask, batch_size, video_mask=video_mask)
        if memory is None:
            return {}
        return {name: getattr(memory, field) for name, field in self.memory_arguments.items()}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        image_mask: torch.BoolTensor | None = None,
        video_mask: torch.BoolTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        visual_key: torch.Tensor | None = None,
        visual_value: torch.Tensor | None = None,
        visual_slots: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_router_logits: bool = False,
        cache: Any = None,
        without_head: bool = False,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> EvlmCausalLMOutputWithPast | tuple:
        """Run one pass.

        Args:
            input_ids (torch.LongTensor | None): [B, T]; ``config.image_token_id`` marks where an image's media tokens
                go.
            pixel_values (torch.FloatTensor | None): [B, n, 3, H, W] or [B, 3, H, W]. With a cache they are images
                behind those that were seen before.
            image_mask (torch.BoolTensor | None): [B, n] or [B], images that exist.
            video_mask (torch.BoolTensor | None): [B], rows whose images are the frames of a video.
            attention_mask (torch.Tensor | None): the library's.
            position_ids (torch.LongTensor | None): the library's.
            past_key_values (Any): the key-value cache, by the library's name before Transformers 5.24.
            inputs_embeds (torch.Tensor | None): [B, T, D], in place of ``input_ids``.
            visual_key (torch.Tensor | None): with the next three, a memory that :meth:`get_visual_memory` computed
                before (``video_mask`` is then the one from there). The cache keeps it: pass it once.
            visual_value (torch.Tensor | None): see ``visual_key``.
            visual_slots (torch.Tensor | None): see ``visual_key``.
            image_embeds (torch.Tensor | None): see ``visual_key``.
            labels (torch.LongTensor | None): [B, T], -100 = not supervised. In training mode the LM head runs on
                supervised positions only.
            use_cache (bool | None): the library's.
            logits_to_keep (int | torch.Tensor): the library's.
            output_router_logits (bool): return them (with experts).
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
            memory = self.memory_for(text, cache, pixel_values, image_mask, video_mask=video_mask)
        else:
            memory = VisualMemory(visual_key, visual_value, visual_slots, image_embeds, video_mask)
        outputs, loss, logits, read = self.read(
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
        routed = {} if read is None else self._routing(read.slots, attention_mask)
        if loss is not None and routed:
            loss = loss + self.config.router_aux_loss_coef * routed["aux_loss"]
        if not output_router_logits:
            routed.pop("router_logits", None)
        return EvlmCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_outputs=None if memory is None else memory.image_outputs,
            **routed,
            **{CACHE: outputs.get(CACHE)},
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate as Transformers does; see :meth:`VisualGenerationMixin.generate`.

        Args:
            args (Any): as there.
            kwargs (Any): as there.
        """
        with casts_kept():  # a float32 adapter beside a bfloat16 language model
            return super().generate(*args, **kwargs)

    def _routing(self, visible: SlotVisibility, attention_mask: torch.Tensor | None) -> dict[str, Any]:
        if not visible.router_logits:
            return {}
        top_k, all_logits = self.config.moe_top_k, visible.router_logits
        seen = visible.seen.to(all_logits[0].device)
        if attention_mask is not None and attention_mask.dim() == 2:  # padding behind an image sees it
            seen = seen & attention_mask[:, -seen.shape[1] :].to(seen.device, torch.bool)
        losses, loads = zip(*(balance(logits, seen, top_k) for logits in all_logits), strict=True)
        return {
            "aux_loss": torch.stack(losses).mean(),
            "router_logits": tuple(all_logits),
            "router_load": torch.stack(loads),
        }


EvlmForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["EvlmForConditionalGeneration", "EvlmPreTrainedModel"]
