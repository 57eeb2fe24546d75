"""What the models of this bundle have in common: a frozen language model and a frozen tower around a trained adapter.

    model
      .vision_tower     frozen, untouched state-dict keys
      .language_model   frozen, untouched state-dict keys
      .adapter          everything that trains = everything that is saved = every key that starts with "adapter."

Shapes: B batch, T text positions, D width of the language model, C width of the tower, N patches, I images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, CLIPVisionModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .checkpoint import AdapterCheckpointMixin, mark_initialized
from .decoder import decoder_input_scale
from .generation import VisualGenerationMixin
from .image_inputs import images_of_rows, keep_own_embeds, merge_image_embeds
from .trained_in_base import LoraMixin, LoraWeights, prepare_unfrozen_blocks, unfrozen_blocks
from .vision import VISION_BLOCKS, OpenClipVisionTower, vision_features


class Body:
    """Called as the model is, returns the decoder's ``last_hidden_state`` [B, T, D]; has the model's parts."""

    _tp_plan = _pp_plan = None  # asked of every base_model

    def __init__(self, model, forward: Callable[..., Any]) -> None:
        self.model_with_head = model
        self.forward = forward

    def __getattr__(self, name: str):
        return getattr(self.__dict__["model_with_head"], name)

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


class BodyMixin:
    """``base_model`` of a model whose parts stand side by side, with no inner model that holds them all."""

    forward: Callable[..., Any]

    @property
    def base_model(self) -> Body:
        # the class's own forward: the instance's may be patched to call this
        return Body(self, partial(type(self).forward, self, without_head=True))


def several_processes() -> bool:
    """Whether this process is one of several that train or predict together."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def features_of_no_image(model) -> torch.Tensor:
    """The features [0, 1+N, C] of no image; the tower and its adapters run, on a blank one.

    Empty, not zero: what is computed from them is exactly what a batch without images gives, with gradients of zero.
    """
    size = model.config.vision_config.image_size
    return model.get_image_features(torch.zeros(1, 3, size, size), return_dict=True).pooler_output[:0]


class OneDeviceMixin:
    """A model that runs on one device a process (or is spread by accelerate)."""

    def _replicate_for_data_parallel(self):
        """Asked of every module that ``nn.DataParallel`` puts on several devices.

        Raises:
            ValueError: always. The hooks in the layers belong to the first device's adapter.
        """
        raise ValueError(
            "nn.DataParallel cannot replicate this model; start one process a device "
            "(torchrun --nproc-per-node N, accelerate launch), or show this process one device (CUDA_VISIBLE_DEVICES=0)"
        )


class FrozenBasesPreTrainedModel(BodyMixin, OneDeviceMixin, PreTrainedModel):
    """What Transformers needs to know of each of them."""

    base_model_prefix = ""  # "language_model" would make the loader take a bare LM checkpoint for one of ours
    main_input_name = "input_ids"
    input_modalities: tuple[str, ...] = ("image", "text")
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
        """The adapter draws its own; all of its parts from there.

        Transformers 5 passes over modules of remote code that hold no tensor of their own.
        """
        super()._init_weights(module)
        if isinstance(module, self.adapter_class):
            module.reset()
            for part in module.modules():
                if isinstance(part, LoraWeights):
                    part.reset()

    adapter_class: type[nn.Module]


class FrozenBasesForConditionalGeneration(
    AdapterCheckpointMixin, LoraMixin, FrozenBasesPreTrainedModel, VisualGenerationMixin, GenerationMixin
):
    """A frozen decoder LLM that sees. Base class; what is seen how is each model's own.

    Args:
        config: the model's configuration.
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
        self.adapter = self.adapter_class(config)
        self._attach()
        self._attach_lora()
        prepare_unfrozen_blocks(self)
        self.post_init()
        # only those that are there: Transformers 5 gathers every name of the parts, and FSDP refuses one it cannot find
        blocks = {*(getattr(self.language_model, "_no_split_modules", None) or []), *VISION_BLOCKS}
        self._no_split_modules = sorted(blocks & {type(module).__name__ for module in self.modules()})
        self._freeze_bases()
        if config.has_external_bases:
            self._note_bases()

    def _attach(self) -> None:
        """Teach the bases' layers to use the adapter."""
        raise NotImplementedError

    def _freeze_bases(self):
        self.vision_tower.requires_grad_(False)
        self.language_model.requires_grad_(False)
        for block in self.unfrozen_vision_blocks().values():
            block.requires_grad_(True)

    def unfrozen_vision_blocks(self) -> dict[int, nn.Module]:
        """The blocks of the tower that train, by number: the last ones that the features depend on."""
        layers, number = self.config.vision_feature_layer, getattr(self.config, "train_vision_blocks", 0)
        last = self.config.tower_depth(layers[-1] if isinstance(layers, list) else layers)
        return unfrozen_blocks(self.vision_tower, last, number)

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

        They are [I, 1+N, C], class token first ([I, k, 1+N, C] where ``config.vision_feature_layer`` lists k levels).
        ``output_hidden_states``, ``output_attentions`` and ``return_dict`` as in Transformers.
        """
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._tower_trains()):
            out = vision_features(self.vision_tower, pixel_values, self.config.vision_feature_layer, **kwargs)
        return out if return_dict else out.to_tuple()

    def _features_of_rows(
        self, pixel_values, image_mask, batch_size: int, always: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The features of the images that are there (see :meth:`get_image_features`), and the mask [B, n] or None.

        Where there is none: None, or with ``always`` those of no image, for which the tower and what trains in it run.
        """
        if pixel_values is not None:
            pixel_values, image_mask = images_of_rows(pixel_values, image_mask, batch_size)
            if pixel_values.shape[0]:
                out: Any = self.get_image_features(pixel_values, return_dict=True)
                return out.pooler_output, image_mask
        if not always:
            return None, image_mask
        features = features_of_no_image(self)
        return features, torch.zeros(batch_size, 1, dtype=torch.bool, device=features.device)

    def _for_the_text(self, embeds: torch.Tensor | None, image_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Image embeddings [B, n, m, D] as the language model takes them, [B, n*m, D]; its own where no image is."""
        if embeds is None:
            return None
        embeds = embeds / decoder_input_scale(self.language_model)
        embed = self.get_input_embeddings()
        if image_mask is not None:
            embeds = keep_own_embeds(embeds, image_mask, embed, self.config.image_token_id)
        return embeds.flatten(1, 2).to(embed.weight.dtype)

    def _tower_trains(self) -> bool:
        """Whether anything inside the tower gets a gradient."""
        return any(p.requires_grad for p in self.vision_tower.parameters())

    def _read(
        self,
        memory: dict[str, Any],
        layer_arguments: dict[str, Any],
        input_ids=None,
        inputs_embeds=None,
        labels=None,
        logits_to_keep=0,
        without_head=False,
        **kwargs,
    ):
        """The language model's part of a forward.

        Args:
            memory: what is to be seen; of it ``image_embeds`` [B, m, D] or None is used here.
            layer_arguments: keyword arguments that the language model hands to its layers.
            without_head: by ``base_model``. kwargs: the language model's own and the loss function's.

        Returns:
            The language model's outputs, the loss and the logits (None where there are none).
        """
        image_embeds = memory.get("image_embeds")
        if image_embeds is not None:
            # a prompt that is read in parts comes with the same embeddings each time
            before = getattr(kwargs.get("past_key_values"), "image_embeds_placed", (None, 0))
            inputs_embeds, placed = merge_image_embeds(
                input_ids,
                inputs_embeds,
                image_embeds,
                self.get_input_embeddings(),
                self.config.image_token_id,
                before[1] if before[0] is image_embeds else 0,
            )
            input_ids = None
        if labels is not None and not (labels[:, 1:] != -100).any():
            raise ValueError("no position of the batch is supervised: every label is -100; give the samples an answer")
        supervised_only = labels is not None and self.training and self._plain_head
        headless = supervised_only or without_head
        if supervised_only and kwargs.get("use_cache") is None:
            kwargs["use_cache"] = False  # a cache that nobody reads would copy every layer's keys and values
        outputs = (self.language_model.get_decoder() if headless else self.language_model)(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **layer_arguments,
            **({} if headless else {"logits_to_keep": logits_to_keep}),
            **kwargs,
        )
        if image_embeds is not None and outputs.past_key_values is not None:
            outputs.past_key_values.image_embeds_placed = (image_embeds, placed)
        loss, logits = None, getattr(outputs, "logits", None)
        if supervised_only:
            loss = self._supervised_loss(outputs.last_hidden_state, labels, **kwargs)
        elif labels is not None and not without_head:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return outputs, loss, logits

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


def _fresh_tower(config) -> nn.Module:
    if config.vision_backend == "open_clip":
        return OpenClipVisionTower.from_config(config.vision_config)
    return CLIPVisionModel(config.vision_config)
