"""EVLM (arXiv 2407.14177) for Transformers: gated cross-attention from a frozen LLM to levels of a frozen CLIP tower.

Same house as ADEM-VL (``modeling_base``). Keys and values of all cross-attention layers are computed once, before the
language model runs, and are kept in its cache.

Shapes: B batch, T text positions, n images a row (at most), L cross-attention layers, S visual slots, W width of the
cross-attention, D width of the language model, m media tokens an image, E experts.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from transformers import GenerationMixin
from transformers.utils import ModelOutput, TransformersKwargs

from .adapter_evlm import EvlmAdapter
from .configuration_evlm import EvlmConfig
from .cross_attention import VisualStates, attach_cross_attention, balance
from .image_inputs import check_image_tokens, image_token_mask
from .modeling_base import FrozenBasesForConditionalGeneration, FrozenBasesPreTrainedModel, several_processes
from .trained_in_base import unfreeze_blocks
from .visibility import VisualCacheLayer, visibility, visual_cache_layer

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
    from .processing_evlm import EvlmProcessor  # noqa: F401
    from .row_layout import RowLayout  # noqa: F401
    from .videos import open_video  # noqa: F401
    from .vision import tower_blocks  # noqa: F401


@dataclass
class EvlmCausalLMOutputWithPast(ModelOutput):
    """Outputs of the model.

    Args:
        loss: next-token cross-entropy over the supervised positions, plus the weighted ``aux_loss`` where there are
            experts, when ``labels`` are given.
        logits: [B, T, vocabulary]; None in training with labels, where only supervised positions are computed.
        past_key_values: the language model's cache, with the visual keys and values behind its own layers.
        hidden_states, attentions: the language model's, when asked for.
        aux_loss: load-balancing loss, mean over the layers; 1 = all experts are used alike.
        router_logits: a tensor [B, T, E] for each cross-attention layer, with ``output_router_logits=True``.
        router_load: [L, E], the share of the choices that fell on each expert.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    aux_loss: torch.FloatTensor | None = None
    router_logits: tuple[torch.FloatTensor, ...] | None = None
    router_load: torch.FloatTensor | None = None


class EvlmPreTrainedModel(FrozenBasesPreTrainedModel):
    """What Transformers needs to know of every EVLM model."""

    config_class = EvlmConfig
    adapter_class = EvlmAdapter
    input_modalities = ("image", "video", "text")


class EvlmForConditionalGeneration(EvlmPreTrainedModel, FrozenBasesForConditionalGeneration, GenerationMixin):
    """A frozen decoder LLM that sees images and videos.

    Build a fresh one with :meth:`from_base_pretrained`, load a trained one with :meth:`from_pretrained`.

    Args:
        config: an ``EvlmConfig``.
        language_model, vision_tower: loaded bases to adopt; built from the config with fresh weights when None.
    """

    auto_map = {
        "AutoConfig": "configuration_evlm.EvlmConfig",
        "AutoModel": "modeling_evlm.EvlmForConditionalGeneration",
        "AutoModelForImageTextToText": "modeling_evlm.EvlmForConditionalGeneration",
        "AutoProcessor": "processing_evlm.EvlmProcessor",
    }
    memory_names = ("visual_key", "visual_value", "visual_slots", "video_mask", "image_embeds")
    names_to_cache = memory_names
    image_argument_names = ("pixel_values", "image_mask", "video_mask")

    def _attach(self) -> None:
        attach_cross_attention(self.language_model, self, self.config.cross_attention_interval)

    def upcycle(self, moe_replicas: int = 4, moe_slices: int = 4, moe_top_k: int = 4) -> "EvlmForConditionalGeneration":
        """Turn a dense model into a mixture of experts that computes the same (Sec. 3.3 of the paper: upcycling).

        The dense feed-forward part becomes the expert that is always on; the routed experts are its slices, added
        through a gate that starts at zero.

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

        Returns:
            The model itself.

        Raises:
            ValueError: fewer than train already, or more than the tower has.
        """
        unfreeze_blocks(self, number)
        return self

    def get_visual_memory(
        self,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        video_mask: torch.Tensor | None = None,
        batch_size: int | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """What the cross-attention layers attend to, computed once per forward and once per ``generate``.

        Args:
            pixel_values: [B, n, 3, H, W], or [B, 3, H, W] for one image a row. image_mask: [B, n] or [B] bool, images
                that are there (default all; the others never reach the tower). video_mask: [B] bool, rows whose images
                are the frames of a video. batch_size: B, the rows of text.

        Returns:
            ``visual_key`` and ``visual_value`` [B, L, S, W] in the language model's dtype, ``visual_slots`` [B, S],
            ``video_mask`` [B], ``image_embeds`` [B, n*m, D] or None. An empty dict where there is no image at all.

        Raises:
            ValueError: images and rows that do not pair up, more images than frame embeddings.
        """
        batch_size = batch_size or (1 if pixel_values is None else pixel_values.shape[0])
        # a batch without images trains nothing, and other processes may have one
        always = several_processes() or (self.training and torch.is_grad_enabled())
        features, image_mask = self._features_of_rows(pixel_values, image_mask, batch_size, always)
        if features is None:
            return {}
        key, value, slots, embeds = self.adapter(features, image_mask, batch_size)
        dtype = self.get_input_embeddings().weight.dtype
        every = torch.full_like(slots[:, 0], self.config.mask_mode == "all_frames", dtype=torch.bool)
        return {
            "visual_key": key.to(dtype),
            "visual_value": value.to(dtype),
            "visual_slots": slots,
            "video_mask": every if video_mask is None else every | video_mask.to(slots.device),
            "image_embeds": self._for_the_text(embeds, image_mask),
        }

    def _memory_for(
        self, given, pixel_values=None, image_mask=None, video_mask=None, past_key_values=None
    ) -> dict[str, Any]:
        """What is new to see in a pass over ``given`` ([B, T] ids or [B, T, D] embeddings; None = one row).

        Nothing without pixels where the cache has what the text in it was read with.
        """
        if pixel_values is None and visual_cache_layer(past_key_values) is not None:
            return {}
        memory = self.get_visual_memory(pixel_values, image_mask, video_mask, None if given is None else given.shape[0])
        if pixel_values is not None and past_key_values is None and given is not None and given.dim() == 2:
            config = self.config
            check_image_tokens(given, config.image_token_id, config.image_tokens, pixel_values, image_mask)
        return memory

    def _visual_states(self, memory, past_key_values, input_ids, inputs_embeds):
        """What the layers are handed, and what the cache is to keep; None and None where there is nothing to see."""
        kept = visual_cache_layer(past_key_values)
        new: list[Any] = [memory.get(name) for name in ("visual_key", "visual_value", "visual_slots", "video_mask")]
        if new[0] is not None and kept is not None:
            if kept.newest is not new[0]:  # a prompt that is read in parts comes with the same images each time
                kept.append(*new)
        elif new[0] is not None:
            kept = VisualCacheLayer(*new, torch.zeros_like(new[2][:, 0]))
        if kept is None:
            return None, None
        embed, token = self.get_input_embeddings(), self.config.image_token_id
        marks = image_token_mask(input_ids, inputs_embeds, embed, token).to(kept.slots.device)
        mask, seen, kept.tokens_read = visibility(
            marks, kept.slots, kept.tokens_read, self.config.image_tokens, kept.all_frames
        )
        return VisualStates(kept.keys, kept.values, mask, seen), kept

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
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> EvlmCausalLMOutputWithPast | tuple:
        """One pass.

        Args:
            input_ids: [B, T]; ``config.image_token_id`` marks where an image's media tokens go.
            pixel_values, image_mask, video_mask: as for :meth:`get_visual_memory`. With ``past_key_values`` they are
                images behind those that were seen before.
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, logits_to_keep: the library's.
            visual_key, visual_value, visual_slots, image_embeds: a memory computed before (:meth:`get_visual_memory`;
                ``video_mask`` is then the one from there). The cache keeps it: pass it once.
            labels: [B, T], -100 = not supervised. In training mode the LM head runs on supervised positions only.
            output_router_logits: return them (with experts).

        Raises:
            ValueError: labels without a single supervised position, images that do not pair up with the rows, a row
                with more images than image tokens, no image token set.
        """
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        given = input_ids if input_ids is not None else inputs_embeds
        memory: dict[str, Any] = {
            "visual_key": visual_key, "visual_value": visual_value, "visual_slots": visual_slots,
            "video_mask": video_mask, "image_embeds": image_embeds,
        }  # fmt: skip
        if visual_key is None:
            memory = self._memory_for(given, pixel_values, image_mask, video_mask, past_key_values)
        states, kept = self._visual_states(memory, past_key_values, input_ids, inputs_embeds)
        without_head = kwargs.pop("without_head", False)
        outputs, loss, logits = self._read(
            memory,
            {} if states is None else {"visual_states": states},
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
        cache = getattr(outputs, "past_key_values", None)
        if kept is not None and cache is not None and visual_cache_layer(cache) is None:
            cache.layers.append(kept)
        if without_head:
            return outputs
        routed = self._routing(states, attention_mask)
        if loss is not None and routed:
            loss = loss + self.config.router_aux_loss_coef * routed["aux_loss"]
        if not output_router_logits:
            routed.pop("router_logits", None)
        out = EvlmCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **routed,
        )
        return out if return_dict else out.to_tuple()

    def _routing(self, states: VisualStates | None, attention_mask: torch.Tensor | None) -> dict[str, Any]:
        if states is None or not states.router_logits:
            return {}
        top_k, all_logits = self.config.moe_top_k, states.router_logits
        seen = states.seen.to(all_logits[0].device)
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
