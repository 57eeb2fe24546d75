"""What the models of this bundle have in common: a frozen language model and a frozen tower around a trained adapter.

    model
      .vision_tower     frozen, but for blocks that train (train_vision_blocks)
      .language_model   frozen, but for LoRA (config.lora)
      .adapter          trained

An adapter-only checkpoint holds what trains, and nothing else. Each of its keys starts with "adapter.", those of what
trains inside the bases too (``trained_in_base``).

Shapes: B batch, T text positions, D width of the language model, C width of the tower, N patches, I images.
"""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .checkpoint import AdapterCheckpointMixin, mark_initialized
from .configuration_base import FrozenBasesConfig
from .decoder import cache_argument
from .forward_pass import ForwardPass
from .generation import VisualGenerationMixin
from .loaders import LoadersMixin
from .open_clip_tower import OpenClipVisionTower
from .pickles import PickledMixin
from .towers import TOWERS
from .trained_in_base import (
    LoraMixin,
    attach_lora,
    names_in_checkpoint,
    prepare_unfrozen_blocks,
    rename_for_load,
    unfrozen_blocks,
)
from .vision import keep_evaluating, let_tower_stop, record_hidden_states, refuse_second_model, tower_blocks


class HeadlessModel:
    """The model without its LM head: called as the model is, it returns the decoder's ``last_hidden_state`` [B, T, D].

    It has the model's parts: a model whose parts stand side by side has no inner model that holds them all.

    Args:
        model ("FrozenBasesForConditionalGeneration"): the whole model.
    """

    _tp_plan = _pp_plan = None  # asked of every base_model

    def __init__(self, model: "FrozenBasesForConditionalGeneration") -> None:
        self.model_with_head = model

    def __getattr__(self, name: str):
        if name.startswith("__") or "model_with_head" not in self.__dict__:  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.model_with_head, name)

    def __call__(self, *args, **kwargs):
        # the class's own forward: the instance's may be patched to call this
        model = self.model_with_head
        return type(model).forward(model, *args, without_head=True, **kwargs)


class FrozenBasesPreTrainedModel(PreTrainedModel):
    """What Transformers needs to know of each of them."""

    base_model_prefix = ""  # "language_model" would make the loader take a bare LM checkpoint for one of ours
    main_input_name = "input_ids"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "CLIPEncoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
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

    def _replicate_for_data_parallel(self):
        """Refuse ``nn.DataParallel``, which asks this of every module that it puts on several devices.

        Raises:
            ValueError: always. The hooks in the layers belong to the first device's adapter.
        """
        raise ValueError(
            "nn.DataParallel cannot replicate this model; start one process a device "
            "(torchrun --nproc-per-node N, accelerate launch), or show this process one device (CUDA_VISIBLE_DEVICES=0)"
        )

    adapter_class: type[nn.Module]


class FrozenBasesForConditionalGeneration(
    LoadersMixin,
    AdapterCheckpointMixin,
    LoraMixin,
    PickledMixin,
    ForwardPass,
    FrozenBasesPreTrainedModel,
    VisualGenerationMixin,
    GenerationMixin,
):
    """A frozen decoder LLM that sees: the base class of the models. ``ForwardPass`` says what a model defines.

    Args:
        config (FrozenBasesConfig): the model's configuration.
        language_model (PreTrainedModel | None): a loaded language model to adopt; None = built with fresh weights.
        vision_tower (nn.Module | None): a loaded vision tower to adopt; None = built with fresh weights.
    """

    _tied_weights_keys = None  # the language model brings its own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # with label_smoothing_factor, Trainer shifts the labels where it finds the class's name (FSDP2 makes another)
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[cls.__name__] = cls.__name__

    def __init__(
        self,
        config: FrozenBasesConfig,
        language_model: PreTrainedModel | None = None,
        vision_tower: nn.Module | None = None,
    ) -> None:
        super().__init__(config)
        if vision_tower is not None:
            refuse_second_model(vision_tower)
        for given, name in ((language_model, "text_config"), (vision_tower, "vision_config")):
            if given is not None:
                setattr(config, name, given.config)  # one object, so that later changes stay in step
                mark_initialized(given)
        self.vision_tower = vision_tower if vision_tower is not None else _fresh_tower(config)
        language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        # the adapter's parameters come before LoRA's, as they always did: a saved optimizer knows them by their order
        self.adapter = self.adapter_class(config)
        self.language_model = language_model
        self.cache_argument = cache_argument(self.language_model)
        record_hidden_states(self.vision_tower)
        self.attach()
        let_tower_stop(self.vision_tower)
        prepare_unfrozen_blocks(self)
        self.post_init()
        if config.lora is not None:  # after post_init, which would draw LoRA's matrices as those of any other layer
            attach_lora(self.language_model, config.lora)
        self.register_load_state_dict_pre_hook(rename_for_load)
        # only those that are there: Transformers 5 gathers every name of the parts, and FSDP refuses one it cannot find
        blocks = {*(getattr(self.language_model, "_no_split_modules", None) or [])}
        blocks |= {type(block).__name__ for block in tower_blocks(self.vision_tower)}
        self._no_split_modules = sorted(blocks & {type(module).__name__ for module in self.modules()})
        self._freeze_bases()
        if config.has_external_bases:
            self._note_bases()

    def _freeze_bases(self):
        trained = names_in_checkpoint(self)
        for base in ("vision_tower", "language_model"):
            for name, parameter in getattr(self, base).named_parameters(base):
                parameter.requires_grad_(name in trained)

    def train(self, mode: bool = True):
        """Set the mode of everything that trains; a frozen tower stays in evaluation mode.

        Args:
            mode (bool): training or evaluation.

        Returns:
            The model itself.
        """
        super().train(mode)
        keep_evaluating(self.vision_tower, mode)
        return self

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

    def set_decoder(self, decoder):
        self.language_model.set_decoder(decoder)

    def get_encoder(self, modality=None):
        return self.vision_tower if modality in ("image", "video") else self

    def set_encoder(self, encoder: Any, modality: Any = None) -> None:
        """Refuse another vision tower.

        Args:
            encoder (Any): the library's.
            modality (Any): the library's.

        Raises:
            NotImplementedError: always. The adapter belongs to its tower.
        """
        raise NotImplementedError("the adapter belongs to its vision tower; build a model with the other tower")

    @property
    def base_model(self) -> HeadlessModel:
        """The model without its LM head."""
        return HeadlessModel(self)


def _fresh_tower(config) -> nn.Module:
    if config.vision_backend == "open_clip":
        return OpenClipVisionTower.from_config(config.vision_config)
    return TOWERS[config.vision_config.model_type].build(config.vision_config)
