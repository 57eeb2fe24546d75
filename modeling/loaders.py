"""How models are made of two frozen bases, and how checkpoints are read: ``from_base_pretrained``, ``from_pretrained``.

The bases load through their own ``from_pretrained`` before the model is built around them: Transformers 5 constructs
models on the meta device, where bases loaded earlier would lose their buffers.
"""

import contextlib
import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import GenerationConfig

from .adapter_file import adapter_file, check_adapter_shapes, read_adapter
from .arguments import (
    FETCHING,
    FETCHING_OF_A_BASE,
    HUB_ARGUMENTS,
    HUB_ARGUMENTS_OF_A_BASE,
    PLACEMENT,
    REMEDIES,
    PreTrainedConfig,
    check_fresh,
    check_leftovers,
    check_loaded,
    check_use,
    hub_arguments_of,
    loading_arguments,
    named_parameters,
    one_dtype,
    recorded_place,
    refuse_unknown,
    take,
)
from .base_sizes import no_larger_than_its_files
from .bases import (
    attention_by_part,
    base_name,
    load_language_model,
    load_vision_tower,
    locate_base,
    pinned_revision,
)
from .checkpoint import check_digest
from .decoder import computing_device
from .field_values import check_generation
from .fingerprints import base_fingerprint, check_base
from .one_save import finish_save
from .peft_adapters import Found, find_peft_adapter
from .quantization import keep_trainable
from .reading import errors_naming
from .towers import tower_of
from .trained_in_base import LORA_KEY_MAPPING, keep_in_memory
from .vision import tower_key_mapping

if TYPE_CHECKING:  # a mixin stands before the model class that it completes
    from .checkpoint import AdapterCheckpointMixin as _Model
else:
    _Model = object


class LoadersMixin(_Model):
    """``from_base_pretrained`` and ``from_pretrained`` of an adapter on two frozen bases."""

    @classmethod
    def from_base_pretrained(
        cls,
        language_model: str | os.PathLike[str] | nn.Module,
        vision_tower: str | os.PathLike[str] | nn.Module,
        *,
        token: str | bool | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool | None = None,
        force_download: bool | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | dict[str, str] | None = None,
        quantization_config: Any = None,
        device_map: str | int | torch.device | dict[str, Any] | None = None,
        max_memory: dict[int | str, int | str] | None = None,
        offload_folder: str | os.PathLike[str] | None = None,
        offload_buffers: bool | None = None,
        text_model_kwargs: dict[str, Any] | None = None,
        vision_model_kwargs: dict[str, Any] | None = None,
        **config_fields: Any,
    ):
        """Two frozen bases in, a model with a fresh adapter out.

        Args:
            language_model (str | os.PathLike[str] | nn.Module): a Hub id, a folder, one GGUF file (see ``split_gguf``),
                or a loaded model.
            vision_tower (str | os.PathLike[str] | nn.Module): a Hub id, a folder, or a loaded model; for the backend
                open_clip as open_clip spells it.
            token (str | bool | None): the access token for the Hub, of both bases and the tokenizer. It is never saved.
            revision (str | None): commit, tag or branch of both bases. The commit that was found is recorded.
            subfolder (str | None): the folder inside both folders or repositories that holds the base; recorded.
            cache_dir (str | os.PathLike[str] | None): where downloads are kept.
            local_files_only (bool | None): take what was downloaded before, and never reach for the network.
            force_download (bool | None): download again what was downloaded before.
            dtype (torch.dtype | str | None): of both bases, default their own; the adapter is float32.
            attn_implementation (str | dict[str, str] | None): of both bases, or a dict by ``text_config`` and
                ``vision_config``.
            quantization_config (Any): how the language model is quantised, see ``bitsandbytes_config``.
            device_map (str | int | torch.device | dict[str, Any] | None): where the language model is put.
            max_memory (dict[int | str, int | str] | None): most memory of each device, for ``device_map="auto"``.
            offload_folder (str | os.PathLike[str] | None): where layers go that ``device_map`` puts on disk.
            offload_buffers (bool | None): offload the language model's buffers with its parameters.
            text_model_kwargs (dict[str, Any] | None): more arguments of the language model's own ``from_pretrained``,
                such as ``trust_remote_code`` for its repository.
            vision_model_kwargs (dict[str, Any] | None): more arguments of the tower's own ``from_pretrained``.
            **config_fields (Any): fields of the model's configuration. ``image_token_id`` is chosen from the tokenizer
                when it is not given. Also the six Hub arguments above for one base alone, under the names
                ``text_model_token``, ``vision_model_revision`` and so on.

        Returns:
            The model, in evaluation mode.

        Raises:
            TypeError: a name that is neither an argument nor a field, with the nearest one or the remedy.
            ValueError: a base that cannot be reached or does not fit, or a field with an impossible value.
        """
        where = f"{cls.__name__}.from_base_pretrained"
        check_fresh(where, cls.config_class, named_parameters(cls.from_base_pretrained), config_fields)
        dtype = one_dtype({"dtype": dtype, "torch_dtype": config_fields.pop("torch_dtype", None)})
        shared = _given({"dtype": dtype})
        attention = attention_by_part(attn_implementation)
        placement = {
            "quantization_config": quantization_config,
            "device_map": device_map,
            "max_memory": max_memory,
            "offload_folder": offload_folder,
            "offload_buffers": offload_buffers,
        }
        hub = {
            "token": token,
            "revision": revision,
            "subfolder": subfolder,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "force_download": force_download,
        } | take(HUB_ARGUMENTS_OF_A_BASE, config_fields)
        of_text, of_vision = {**_given(placement), **(text_model_kwargs or {})}, dict(vision_model_kwargs or {})
        hub_of_text = hub_arguments_of("text_model", hub) | take(HUB_ARGUMENTS, of_text)
        hub_of_vision = hub_arguments_of("vision_model", hub) | take(HUB_ARGUMENTS, of_vision)
        if "gguf_file" in of_text:  # Transformers' own spelling
            language_model = f"{language_model}/{of_text.pop('gguf_file')}"
        names: list[Any] = [_base_name(language_model), _base_name(vision_tower)]
        if isinstance(language_model, nn.Module):
            check_loaded("language model", of_text)
        else:
            language_model = load_language_model(
                names[0], **shared, **attention["text_config"], **hub_of_text, **of_text
            )
        if isinstance(vision_tower, nn.Module):
            check_loaded("vision tower", of_vision)
            vision_tower = tower_of(vision_tower)
        else:
            backend = config_fields.get("vision_backend", "transformers")
            vision_tower = load_vision_tower(
                names[1], backend, **shared, **attention["vision_config"], **hub_of_vision, **of_vision
            )
        if config_fields.get("image_size") is None:
            from .processor_parts import image_side

            config_fields["image_size"] = image_side(names[1], vision_tower.config, **hub_of_vision)
        config = cls.config_class(
            text_config=language_model.config,
            vision_config=vision_tower.config,
            text_model_name_or_path=names[0],
            text_model_revision=pinned_revision(names[0], hub_of_text),
            text_model_subfolder=hub_of_text.get("subfolder"),
            text_model_fingerprint=base_fingerprint(language_model),
            vision_model_name_or_path=names[1],
            vision_model_revision=pinned_revision(names[1], hub_of_vision),
            vision_model_subfolder=hub_of_vision.get("subfolder"),
            vision_model_fingerprint=base_fingerprint(vision_tower),
            **attention[""],
            **config_fields,
        )
        if config.image_tokens and config.image_token_id is None:
            from .processor_parts import tokenizer_and_image_token

            if names[0] is None:
                raise ValueError("this language model does not say where it was loaded from: pass image_token_id")
            _, config.image_token_id = tokenizer_and_image_token(names[0], config.text_config.vocab_size, **hub_of_text)
        model = cls(config, language_model=language_model, vision_tower=vision_tower)
        model._place_adapter()
        model.generation_config = copy.deepcopy(language_model.generation_config)
        return model.eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: Any = None,
        language_model: nn.Module | None = None,
        vision_tower: nn.Module | None = None,
        text_model_kwargs: dict[str, Any] | None = None,
        vision_model_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Load a checkpoint: the bases from where the config says (at their own revisions), then the adapter.

        Args:
            pretrained_model_name_or_path (str | os.PathLike[str] | None): a folder or a Hub id. An adapter of PEFT in
                the folder, or on its own, is put into the model, as Transformers' own models do.
            *model_args (Any): as in Transformers, for checkpoints that hold every weight.
            config (Any): the configuration, or where it is; default the checkpoint's own.
            language_model (nn.Module | None): a loaded language model to use.
            vision_tower (nn.Module | None): a loaded vision tower to use.
            text_model_kwargs (dict[str, Any] | None): more arguments of the language model's own ``from_pretrained``.
            vision_model_kwargs (dict[str, Any] | None): more arguments of the tower's own ``from_pretrained``.
            **kwargs (Any): the library's arguments (``dtype``, ``attn_implementation``; ``device_map`` and
                ``quantization_config`` of the language model; ``revision`` and ``subfolder`` of this checkpoint;
                ``token``, ``cache_dir``, ``local_files_only``, ``force_download`` of this checkpoint and both bases,
                or as ``text_model_token``, ``vision_model_token`` and so on of one base alone), and fields of the
                configuration to override, such as ``text_model_name_or_path="/models/llama"`` or
                ``text_model_revision``.

        Returns:
            The model, in evaluation mode.

        Raises:
            TypeError: a name that is neither an argument nor a field, or an argument that this checkpoint has no use
                for.
            ValueError: another base than the adapter was trained on, or an adapter file that does not fit, by name.
        """
        loading = {key: kwargs.pop(key) for key in list(kwargs) if key in loading_arguments()}
        dtype = one_dtype(loading)
        where = _given({key: loading.get(key) for key in HUB_ARGUMENTS})
        given, subfolder = str(pretrained_model_name_or_path), where.get("subfolder", "")
        found = Found(given)
        if pretrained_model_name_or_path is not None:
            found = find_peft_adapter(given, subfolder, loading.get("adapter_kwargs"), where)
        name = found.checkpoint
        finish_save(Path(name, subfolder))
        hub = where | take(FETCHING_OF_A_BASE, kwargs)
        config = cls._read_config(name if config is None else config, where, kwargs)
        of_text, of_vision = dict(text_model_kwargs or {}), dict(vision_model_kwargs or {})
        if not config.has_external_bases or pretrained_model_name_or_path is None:  # None: a state dict is given
            bases = {"language_model": language_model, "vision_tower": vision_tower}
            for key in (*_given(bases), *of_text, *of_vision, *(hub.keys() - where.keys())):
                raise TypeError(f"{name} holds every weight itself, and has no use for {key}, which is for a base")
            whole = None if pretrained_model_name_or_path is None else name
            return cls._load_every_weight(whole, *model_args, config=config, **loading | found.as_arguments())
        check_use(name, model_args, loading)
        config = copy.deepcopy(config)
        file = adapter_file(name, where)
        check_adapter_shapes(file, cls.adapter_class, config)  # before any weights are read or allocated
        attention = attention_by_part(loading.get("attn_implementation"), config)
        config._attn_implementation = attention[""].get("attn_implementation")
        shared = _given({"dtype": dtype})
        of_text = {**_given({key: loading.get(key) for key in PLACEMENT}), **of_text}
        if language_model is not None:
            check_loaded("language model", of_text)
        else:
            path = locate_base(config.text_model_name_or_path, name)
            place = recorded_place("text_model", config)
            hub_of_text = hub_arguments_of("text_model", hub, FETCHING) | place | take(HUB_ARGUMENTS, of_text)
            language_model = load_language_model(path, **shared, **attention["text_config"], **hub_of_text, **of_text)
        if vision_tower is not None:
            check_loaded("vision tower", of_vision)
            vision_tower = tower_of(vision_tower)
        else:
            path = locate_base(config.vision_model_name_or_path, name)
            place = recorded_place("vision_model", config)
            hub_of_vision = hub_arguments_of("vision_model", hub, FETCHING) | place | take(HUB_ARGUMENTS, of_vision)
            vision_tower = load_vision_tower(
                path, config.vision_backend, **shared, **attention["vision_config"], **hub_of_vision, **of_vision
            )
        check_base("language model", name, config.text_config, config.text_model_fingerprint, language_model)
        check_base("vision tower", name, config.vision_config, config.vision_model_fingerprint, vision_tower)
        model = cls(config, language_model=language_model, vision_tower=vision_tower)
        adapter = read_adapter(file, model.adapter_state_dict())
        check_digest(file, model.config, adapter)
        model.load_state_dict(adapter, strict=False)
        model._place_adapter()
        model.name_or_path = config.name_or_path = name
        model.generation_config = loading.get("generation_config") or _generation_config(name, where, language_model)
        found.put_into(model)
        model.eval()
        if loading.get("output_loading_info"):
            none: dict = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
            return model, none
        return model

    @classmethod
    def _read_config(cls, config: Any, where: dict[str, Any], overrides: dict[str, Any]) -> Any:
        """The configuration with the overrides; one that is given has to have them already.

        Pipelines read the configuration with them, and give them again with it.
        """
        where_given = f"{cls.__name__}.from_pretrained"
        refuse_unknown(where_given, [name for name in overrides if name in REMEDIES], ())  # 4.57 takes use_auth_token
        given = config if isinstance(config, PreTrainedConfig) else None
        if given is None:
            with errors_naming(f"{config}/config.json"):
                config, left = cls.config_class.from_pretrained(config, return_unused_kwargs=True, **where, **overrides)
        else:
            left = {k: v for k, v in overrides.items() if not hasattr(given, k) or getattr(given, k) != v}
        check_leftovers(where_given, cls.config_class, left, given)
        return config

    @classmethod
    def _load_every_weight(cls, name: str | os.PathLike[str] | None, *model_args: Any, **loading: Any):
        """Load a checkpoint that holds the bases too, as Transformers does."""
        if loading.get("quantization_config") is not None:
            raise ValueError(
                f"{name} holds every weight itself, and quantization_config would quantise its tower and adapter too: "
                "take an adapter-only checkpoint, whose language model alone is quantised"
            )
        of_tower = tower_key_mapping(loading["config"].vision_config.model_type)
        renamed = {**LORA_KEY_MAPPING, **of_tower, **(loading.pop("key_mapping", None) or {})}
        with_info = loading.pop("output_loading_info", False)
        held = no_larger_than_its_files(str(name), loading) if name is not None else contextlib.nullcontext()
        with errors_naming(name), held:
            model, info = super().from_pretrained(
                name, *model_args, key_mapping=renamed, output_loading_info=True, **loading
            )
        missing = sorted(info["missing_keys"])  # for those who ask for the information to judge themselves
        if missing and name is not None and not (with_info or loading.get("ignore_mismatched_sizes")):
            raise ValueError(
                f"{name} lacks {len(missing)} weights of {cls.__name__}, such as {missing[:3]}, which would be drawn "
                "at random: the file is cut short, or belongs to another configuration"
            )
        if conversions := getattr(model, "_weight_conversions", None):  # which would be reversed in saving
            own = [one for one in conversions if not of_tower.keys() & {*one.source_patterns}]
            model._weight_conversions = own
        # Transformers 5 puts tensors of its own in place of the frozen ones
        keep_in_memory(model)
        model._freeze_bases()
        return (model, info) if with_info else model

    def _place_adapter(self) -> None:
        """Put tower and adapter where the language model takes its input; the adapter stays float32."""
        device = computing_device(self.get_input_embeddings())
        if device.type != "meta":
            self.adapter.to(device=device, dtype=torch.float32)
            self.vision_tower.to(device)
        if getattr(self.language_model, "hf_device_map", None):
            self.hf_device_map = {
                f"language_model.{k}".rstrip("."): v for k, v in self.language_model.hf_device_map.items()
            }
        if getattr(self.language_model, "quantization_method", None) is not None:
            # Trainer then leaves placing to us; is_quantized on the wrapper would make it refuse to train
            self.quantization_method = self.language_model.quantization_method
            keep_trainable(self.language_model)


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _base_name(base) -> str | None:
    """The id to record: a Hub id as it is, a folder or a GGUF file as its absolute path."""
    name = str(base) if isinstance(base, (str, os.PathLike)) else base_name(base)
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _generation_config(name: str, where: dict, language_model) -> GenerationConfig:
    try:
        with errors_naming(f"{name}/generation_config.json"):
            found = GenerationConfig.from_pretrained(name, **where)
            check_generation(found)
            return found
    except OSError:  # none was saved: the base's own
        return copy.deepcopy(language_model.generation_config)
