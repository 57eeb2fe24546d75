"""ADEM-VL (arXiv 2410.17779) for Transformers: a frozen decoder LLM sees through a frozen CLIP tower.

    AdemVLForConditionalGeneration
      .vision_tower     frozen, untouched state-dict keys
      .language_model   frozen, untouched state-dict keys
      .adapter          everything that trains = everything that is saved = every key that starts with "adapter."

Shapes: B batch, T text positions, S memory slots, D width of the language model, C width of the tower, N patches.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, CLIPVisionModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, TransformersKwargs

from .body_adem_vl import BodyMixin
from .checkpoint_adem_vl import AdapterCheckpointMixin, mark_initialized
from .configuration_adem_vl import AdemVLConfig
from .distributed_adem_vl import OneDeviceMixin, features_of_no_image, several_processes
from .fusion_adem_vl import AdemVLAdapter, LowRankProjector, VisionAdapter
from .inputs_adem_vl import check_image_tokens, keep_own_embeds, merge_image_embeds, one_image_a_row
from .layers_adem_vl import attach_fusion, decoder_input_scale
from .lora_adem_vl import LoraMixin, LoraWeights
from .prompts_adem_vl import answers_labelled_batches
from .vision_adem_vl import VISION_BLOCKS, OpenClipVisionTower, attach_vision_adapters, vision_features

if TYPE_CHECKING:
    # never run: saving and loading find the files that travel together by these lines (4.57 looks no further than here)
    from .bases_adem_vl import base_fingerprint  # noqa: F401
    from .images_adem_vl import open_image  # noqa: F401
    from .options_adem_vl import sort_options  # noqa: F401
    from .pipeline_adem_vl import AdemVLImageToTextPipeline  # noqa: F401
    from .processing_adem_vl import AdemVLProcessor  # noqa: F401
    from .quantized_adem_vl import split_gguf  # noqa: F401


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


class AdemVLPreTrainedModel(BodyMixin, OneDeviceMixin, PreTrainedModel):
    """What Transformers needs to know of every ADEM-VL model."""

    config_class = AdemVLConfig
    base_model_prefix = ""  # "language_model" would make the loader take a bare LM checkpoint for one of ours
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "CLIPEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    def _set_gradient_checkpointing(self, enable=True, gradient_checkpointing_func=checkpoint, **kwargs):
        # the memory needs gradients and reaches the layers as a keyword argument; reentrant checkpointing (the default
        # before Transformers 5) follows positional tensors only and would run the memory's backward twice
        func = gradient_checkpointing_func
        if isinstance(func, partial) and func.keywords.get("use_reentrant", True):
            func = partial(func.func, *func.args, **{**func.keywords, "use_reentrant": False})
        super()._set_gradient_checkpointing(enable=enable, gradient_checkpointing_func=func, **kwargs)

    def _init_weights(self, module):
        """The authors' initialisation: E_key ~ N(0, 0.02^2), E_value = 0, projectors Xavier, tower adapters silent."""
        super()._init_weights(module)
        if not isinstance(module, AdemVLAdapter):
            return
        # all parts from here: Transformers 5 passes over modules of remote code that hold no tensor of their own
        nn.init.normal_(module.key_embedding, std=0.02)
        nn.init.zeros_(module.value_embedding)
        for part in module.modules():
            if isinstance(part, LowRankProjector):
                for linear in (part.fc1, part.fc2):
                    nn.init.xavier_uniform_(linear.weight)
                    nn.init.zeros_(linear.bias)
            elif isinstance(part, VisionAdapter):
                nn.init.kaiming_uniform_(part.down.weight, a=5**0.5)
                nn.init.zeros_(part.up.weight)
            elif isinstance(part, LoraWeights):
                part.reset()


class AdemVLForConditionalGeneration(AdapterCheckpointMixin, LoraMixin, AdemVLPreTrainedModel, GenerationMixin):
    """A frozen decoder LLM that sees.

    Build a fresh one with :meth:`from_base_pretrained`, load a trained one with :meth:`from_pretrained`.

    Args:
        config: an ``AdemVLConfig``.
        language_model, vision_tower: loaded bases to adopt; built from the config with fresh weights when None.
    """

    _tied_weights_keys = None  # the language model brings its own

    def __init__(self, config, language_model=None, vision_tower=None):
        super().__init__(config)
        for given, name in ((language_model, "text_config"), (vision_tower, "vision_config")):
            if given is not None:
                setattr(config, name, given.config)  # one object, so that later changes stay in step
                mark_initialized(given)
        self.vision_tower = vision_tower if vision_tower is not None else _fresh_tower(config)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.adapter = AdemVLAdapter(config)
        attach_fusion(self.language_model, config)
        if config.vision_adapter_dim:
            attach_vision_adapters(self.vision_tower, self, config.vision_adapter_scale)
        self._attach_lora()
        self.post_init()
        # only those that are there: Transformers 5 gathers every name of the parts, and FSDP refuses one it cannot find
        blocks = {*(getattr(self.language_model, "_no_split_modules", None) or []), *VISION_BLOCKS}
        self._no_split_modules = sorted(blocks & {type(module).__name__ for module in self.modules()})
        self._freeze_bases()
        if config.has_external_bases:
            self._note_bases()

    def _freeze_bases(self):
        self.vision_tower.requires_grad_(False)
        self.language_model.requires_grad_(False)

    def get_input_embeddings(self):
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, value):
        self.language_model.set_output_embeddings(value)

    def get_decoder(self):
        return self.language_model.get_decoder()

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling | tuple:
        """[I, 3, H, W] through the tower with its adapters (and PEFT's); the ``pooler_output`` are the features.

        They are [I, 1+N, C], class token first. ``output_hidden_states``, ``output_attentions`` and ``return_dict`` as
        in Transformers.
        """
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        trains = self.config.vision_adapter_dim > 0 or any(p.requires_grad for p in self.vision_tower.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            out = vision_features(self.vision_tower, pixel_values, self.config.vision_feature_layer, **kwargs)
        return out if return_dict else out.to_tuple()

    def get_visual_memory(
        self,
        pixel_values: torch.Tensor | None = None,
        image_mask: torch.Tensor | None = None,
        batch_size: int | None = None,
    ) -> dict[str, torch.Tensor | None]:
        """What the layers attend to, computed once per forward and once per ``generate``.

        Args:
            pixel_values: [B, 3, H, W] or [B, 1, 3, H, W]. image_mask: [B] or [B, 1] bool, rows that have an image
                (default all; the others never reach the tower). batch_size: B, the rows of text (default 1, or as many
                as there are in ``pixel_values``).

        Returns:
            ``visual_key`` and ``visual_value`` [B, S, D] in the language model's dtype, ``image_embeds`` [B, n, D] or
            None, and ``image_hidden_states``, the visual prompt V [B, S, D] or None.

        Raises:
            ValueError: more than one image a row, or rows that do not pair up.
        """
        features, rows = None, None
        if pixel_values is None:
            batch_size = batch_size or 1
        else:
            pixel_values, image_mask = one_image_a_row(pixel_values, image_mask, batch_size)
            batch_size = pixel_values.shape[0]
            if image_mask is not None:
                rows = image_mask.to(pixel_values.device).nonzero().flatten()  # [I]
                pixel_values = pixel_values[rows]
            if pixel_values.shape[0]:
                out: Any = self.get_image_features(pixel_values, return_dict=True)
                features = out.pooler_output
        if features is None and several_processes():
            features, rows = features_of_no_image(self)
        key, value, visual, embeds = self.adapter(features, rows, batch_size)
        if embeds is not None:
            embeds = embeds / decoder_input_scale(self.language_model)
        if embeds is not None and rows is not None:
            embeds = keep_own_embeds(embeds, rows, self.get_input_embeddings(), self.config.image_token_id)
        dtype = self.get_input_embeddings().weight.dtype
        return {
            "visual_key": key.to(dtype),
            "visual_value": value.to(dtype),
            "image_embeds": None if embeds is None else embeds.to(dtype),
            "image_hidden_states": visual,
        }

    def _memory_for(self, given: torch.Tensor | None, pixel_values, image_mask, past_key_values) -> dict[str, Any]:
        """What a pass over ``given`` ([B, T] ids or [B, T, D] embeddings; None = one row) attends to.

        Without pixels it is what the text in the cache was read with, key and value alone, if there is such a text.
        """
        if pixel_values is None:
            key, value = _cached_memory(past_key_values)
            if key is not None:
                return {"visual_key": key, "visual_value": value}
        memory = self.get_visual_memory(pixel_values, image_mask, None if given is None else given.shape[0])
        fresh = pixel_values is not None and memory["image_embeds"] is not None and past_key_values is None
        if fresh and given is not None and given.dim() == 2:
            check_image_tokens(given, self.config.image_token_id, image_mask)
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
        image_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> AdemVLCausalLMOutputWithPast | tuple:
        """One pass.

        Args:
            input_ids: [B, T]; ``config.image_token_id`` marks where an image's embeddings go.
            pixel_values: [B, 3, H, W] or [B, 1, 3, H, W]. image_mask: [B] or [B, 1], rows that have an image.
            attention_mask, position_ids, past_key_values, inputs_embeds, use_cache, logits_to_keep: the library's.
            visual_key, visual_value, image_embeds: a memory computed before (:meth:`get_visual_memory`).
            labels: [B, T], -100 = not supervised. In training mode the LM head runs on supervised positions only.

        Raises:
            ValueError: labels without a single supervised position, images that do not pair up with the rows, more than
                one image a row, a row with an image and no image token, no image token set.
        """
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        given = input_ids if input_ids is not None else inputs_embeds
        image_hidden_states = None
        if visual_key is None:
            memory = self._memory_for(given, pixel_values, image_mask, past_key_values)
            visual_key, visual_value = memory["visual_key"], memory["visual_value"]
            image_embeds = memory.get("image_embeds", image_embeds)
            image_hidden_states = memory.get("image_hidden_states")
        if image_embeds is not None:
            embed = self.get_input_embeddings()
            inputs_embeds = merge_image_embeds(
                input_ids, inputs_embeds, image_embeds, embed, self.config.image_token_id
            )
            input_ids = None
        if labels is not None and not (labels[:, 1:] != -100).any():
            raise ValueError("no position of the batch is supervised: every label is -100; give the samples an answer")
        without_head = kwargs.pop("without_head", False)  # by base_model
        supervised_only = labels is not None and self.training and self._plain_head
        headless = supervised_only or without_head
        outputs = (self.language_model.get_decoder() if headless else self.language_model)(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            visual_memory=(visual_key, visual_value),
            return_dict=True,
            **({} if headless else {"logits_to_keep": logits_to_keep}),
            **kwargs,
        )
        if without_head:
            return outputs
        if outputs.past_key_values is not None:
            outputs.past_key_values.visual_memory = (visual_key, visual_value)
        loss, logits = None, None
        if supervised_only:
            loss = self._supervised_loss(outputs.last_hidden_state, labels, **kwargs)
        else:
            logits = outputs.logits
            if labels is not None:
                vocab_size = self.config.text_config.vocab_size
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        out = AdemVLCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=image_hidden_states,
        )
        return out if return_dict else out.to_tuple()

    @property
    def _plain_head(self) -> bool:
        """Whether the LM's logits are its head's output as it stands (Gemma caps them, Granite and Cohere scale)."""
        text_config = self.config.text_config
        return not any(
            getattr(text_config, n, None) for n in ("final_logit_softcapping", "logits_scaling", "logit_scale")
        )

    def _supervised_loss(self, hidden_states, labels, **kwargs):
        """Cross-entropy with the LM head run on supervised positions alone: the answer is a small part of a row."""
        targets = labels[:, 1:].to(hidden_states.device)
        supervised = targets != -100  # [B, T-1]
        targets = targets[supervised]
        logits = self.get_output_embeddings()(hidden_states[:, :-1][supervised])  # [positions, vocabulary]
        vocab_size = self.config.text_config.vocab_size
        return self.loss_function(logits=logits, labels=None, vocab_size=vocab_size, shift_labels=targets, **kwargs)

    @torch.no_grad()
    @answers_labelled_batches
    def generate(self, inputs=None, *args, pixel_values=None, image_mask=None, **kwargs):
        """Transformers' ``generate``; the tower runs once, and beams expand the memory, not the pixels.

        With ``labels`` [B, T] (a training batch) it answers the prompts alone and returns the answers alone.
        """
        if kwargs.get("visual_key") is None:
            given = inputs if inputs is not None else kwargs.get("input_ids", kwargs.get("inputs_embeds"))
            memory = self._memory_for(given, pixel_values, image_mask, kwargs.get("past_key_values"))
            memory.pop("image_hidden_states", None)
            # tensors that lead with the batch are repeated for beams, and handed on at every step under these names
            kwargs |= {name: tensor for name, tensor in memory.items() if tensor is not None}
        draft = kwargs.get("assistant_model")
        if draft is not None and draft.config.model_type != self.config.model_type:
            kwargs["assistant_model"] = _TextDraft(draft)
        return super().generate(inputs, *args, **kwargs)

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, *args, **kwargs):
        """What is cached needs no image embeddings any more, and an image token that is generated gets none."""
        if model_kwargs.get("use_cache"):
            model_kwargs.pop("image_embeds", None)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)


class _TextDraft:
    """A language model that drafts for one that sees: it is asked to go on without the picture."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, *args, **kwargs):
        for name in ("visual_key", "visual_value", "image_embeds"):
            kwargs.pop(name, None)
        return self.model.generate(*args, **kwargs)


def _cached_memory(past_key_values) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Key and value that the text in this cache was read with: going on from it needs no image."""
    if past_key_values is None or not past_key_values.get_seq_length():
        return None, None
    return getattr(past_key_values, "visual_memory", (None, None))


def _fresh_tower(config) -> nn.Module:
    if config.vision_backend == "open_clip":
        return OpenClipVisionTower.from_config(config.vision_config)
    return CLIPVisionModel(config.vision_config)


AdemVLForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AdemVLForConditionalGeneration", "AdemVLPreTrainedModel"]
