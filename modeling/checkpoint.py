"""Adapter-only checkpoints: what is saved, how it is read back, and how the bases are found and recognised.

A checkpoint is ``config.json`` (with both bases' ids and revisions), ``model.safetensors`` (the ``adapter.`` tensors)
and the files of this bundle. The bases load through their own ``from_pretrained`` before the model is built around
them: Transformers 5 constructs models on the meta device, where bases loaded earlier would lose their buffers.
"""

import copy
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import GenerationConfig
from transformers.utils import cached_file

from .bases import (
    attention_by_part,
    base_fingerprint,
    base_name,
    changed_weight,
    check_base,
    check_can_save,
    keep_trainable,
    load_language_model,
    load_vision_tower,
    pinned_revision,
    sample_weights,
)
from .decoder import computing_device
from .trained_in_base import check_outside_peft, lora_weights, names_in_checkpoint

if TYPE_CHECKING:  # a mixin stands before the model class that it completes
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

CUSTOM_PIPELINES = {
    "image-to-text": {
        "impl": "pipeline.AdemVLImageToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}
# where the files are: passed on to the bases, except for the subfolder, which is the checkpoint's alone
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")
# how the bases are loaded, the language model alone by all but the dtype; never part of the configuration
PLACEMENT = ("device_map", "max_memory", "offload_folder", "offload_buffers", "quantization_config")
BASE_ARGUMENTS = ("dtype", "torch_dtype", *PLACEMENT)
# arguments of the Auto classes and pipelines that have no meaning for an adapter-only checkpoint
IGNORED_ARGUMENTS = (
    "_from_auto", "_from_pipeline", "_commit_hash", "trust_remote_code", "adapter_kwargs", "use_safetensors",
    "weights_only", "low_cpu_mem_usage", "state_dict",
)  # fmt: skip


def is_adapter_key(key: str) -> bool:
    """The one predicate that says what trains and what is saved."""
    return key.startswith("adapter.")


def mark_initialized(module: nn.Module) -> None:
    """Keep ``post_init`` from drawing fresh weights for a base that is loaded already."""
    for part in (*module.modules(), *module.parameters(), *module.buffers()):
        part._is_hf_initialized = True


class AdapterCheckpointMixin(_Model):
    """``save_pretrained``, ``from_pretrained`` and ``from_base_pretrained`` of an adapter on two frozen bases."""

    _keys_to_ignore_on_save: set[str] | None
    _base_samples: dict[str, torch.Tensor]
    auto_map: dict[str, str]  # where each class is, among the files that travel

    def adapter_state_dict(self, state_dict: dict | None = None) -> dict[str, torch.Tensor]:
        """The tensors that are trained and saved."""
        state_dict = self.state_dict() if state_dict is None else state_dict
        renamed = names_in_checkpoint(self)
        return {renamed.get(key, key): x for key, x in state_dict.items() if is_adapter_key(key) or key in renamed}

    def save_pretrained(self, save_directory, *args, state_dict=None, save_base: bool | None = None, **kwargs):
        """Save the adapter alone, or every weight where the config names no external bases (or ``save_base=True``).

        Bases that are no longer what was loaded (PEFT merged something into them, or they were trained) are saved, too,
        with a warning, unless ``save_base=False`` says otherwise.

        Files are written beside and renamed when all are whole: a full disk leaves what was there before as it was.
        """
        if getattr(self, "_hf_peft_config_loaded", False):  # a PEFT adapter was added: the library's own format
            return super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        check_outside_peft(self)
        target = Path(save_directory)
        if target.is_file():
            raise ValueError(f"cannot save to {save_directory}: it is a file; name a folder")
        if save_base is None:
            save_base = not self.config.has_external_bases or self._bases_changed(state_dict)
        if save_base:
            check_can_save(self.language_model)
        else:  # Trainer hands over a full state dict under FSDP and DeepSpeed
            state_dict = self.adapter_state_dict(state_dict)
        target.mkdir(parents=True, exist_ok=True)
        if kwargs.get("push_to_hub"):  # which names the repository after the folder, and the one below is temporary
            kwargs.setdefault("repo_id", target.name)
        view = self._view_to_save(save_base)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as beside:
            super(AdapterCheckpointMixin, view).save_pretrained(beside, *args, state_dict=state_dict, **kwargs)
            for file in sorted(Path(beside).iterdir()):
                os.replace(file, target / file.name)

    def _view_to_save(self, save_base: bool):
        """A second object on the same weights, described as the checkpoint describes them.

        The library's ``save_pretrained`` takes all that it writes from a model, and writes into the model's
        configurations. It gets this object: the model itself, which may be in use elsewhere, stays as it is.
        """
        config = copy.deepcopy(self.config)
        config.auto_map, config.custom_pipelines = dict(self.auto_map), copy.deepcopy(CUSTOM_PIPELINES)
        if save_base:
            config.text_model_name_or_path = config.vision_model_name_or_path = None
        for base in (config.text_config, config.vision_config):
            base.name_or_path = ""  # where the library loaded the base from: a path on this machine
        # how the language model was loaded (4 bit, spread over devices) is no property of what is saved
        for name in ("quantization_config", "_pre_quantization_dtype"):
            vars(config.text_config).pop(name, None)
        # FSDP2 turns the class into a subclass of its own making, defined in a file of PyTorch's, which the library
        # would take for the model's code
        cls: Any = next(cls for cls in type(self).__mro__ if not cls.__module__.startswith("torch.distributed"))
        view = cls.__new__(cls)
        vars(view).update(
            vars(self), config=config, generation_config=copy.deepcopy(self.generation_config),
            _keys_to_ignore_on_save=None,  # what is not to be saved is not in the state dict
        )  # fmt: skip
        if not save_base:
            vars(view).pop("hf_device_map", None)
        return view

    def _note_bases(self) -> None:
        """Remember which tensors are the bases', and what they look like."""
        trained = names_in_checkpoint(self)
        tensors = {key: x for key, x in self.state_dict().items() if not (is_adapter_key(key) or key in trained)}
        self._keys_to_ignore_on_save = set(tensors)  # which Trainer takes for expected when it reads a checkpoint
        self._base_samples = sample_weights(tensors)

    def _bases_changed(self, state_dict: dict | None) -> bool:
        """Whether an adapter-only checkpoint would lose something, which is then said."""
        key = changed_weight(self._base_samples, self.state_dict() if state_dict is None else state_dict)
        if key is not None:
            warnings.warn(
                f"{key} is not what was loaded: the bases were changed since, so the checkpoint holds every weight and "
                "not the adapter alone (save_base=False leaves the change out)",
                stacklevel=3,
            )
        return key is not None

    @classmethod
    def from_base_pretrained(
        cls,
        language_model,
        vision_tower,
        *,
        text_model_revision: str | None = None,
        vision_model_revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | dict | None = None,
        text_model_kwargs: dict | None = None,
        vision_model_kwargs: dict | None = None,
        **config_fields,
    ):
        """Two frozen bases in, a model with a fresh adapter out.

        Args:
            language_model, vision_tower: Hub ids, folders, or loaded models.
            text_model_revision, vision_model_revision: revisions to load; the commits found are recorded.
            dtype: of both bases (the adapter is float32). attn_implementation: of both, or by sub-config in a dict.
            text_model_kwargs, vision_model_kwargs: more arguments for each base's own ``from_pretrained``, such as
                ``trust_remote_code`` for its repository.
            config_fields: fields of ``AdemVLConfig``. ``image_token_id`` is chosen from the tokenizer when not given.
                As in :meth:`from_pretrained`, ``quantization_config``, ``device_map`` and what goes with it are
                arguments of the language model. A language model may be one GGUF file (see ``split_gguf``).

        Raises:
            ValueError: naming the base that cannot be reached or does not fit, or the field that cannot be.
        """
        backend = config_fields.get("vision_backend", "transformers")
        shared: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        attention = attention_by_part(attn_implementation)
        placement = {key: config_fields.pop(key) for key in PLACEMENT if key in config_fields}
        text_model_kwargs = {**placement, **(text_model_kwargs or {})}
        if "gguf_file" in text_model_kwargs:  # Transformers' own spelling
            language_model = f"{language_model}/{text_model_kwargs.pop('gguf_file')}"
        names: list[Any] = [_base_name(language_model), _base_name(vision_tower)]
        if isinstance(language_model, (str, os.PathLike)):
            language_model = load_language_model(
                names[0], revision=text_model_revision, **{**shared, **attention["text_config"], **text_model_kwargs}
            )
        if isinstance(vision_tower, (str, os.PathLike)):
            arguments = {**shared, **attention["vision_config"], **(vision_model_kwargs or {})}
            vision_tower = load_vision_tower(names[1], backend, revision=vision_model_revision, **arguments)
        config = cls.config_class(
            text_config=language_model.config,
            vision_config=vision_tower.config,
            text_model_name_or_path=names[0],
            text_model_revision=pinned_revision(language_model, text_model_revision),
            text_model_fingerprint=base_fingerprint(language_model),
            vision_model_name_or_path=names[1],
            vision_model_revision=pinned_revision(vision_tower, vision_model_revision),
            vision_model_fingerprint=base_fingerprint(vision_tower),
            **attention[""],
            **config_fields,
        )
        if config.image_tokens and config.image_token_id is None:
            from .row_layout import tokenizer_and_image_token

            if names[0] is None:
                raise ValueError("this language model does not say where it was loaded from: pass image_token_id")
            _, config.image_token_id = tokenizer_and_image_token(names[0], text_model_revision)
        model = cls(config, language_model=language_model, vision_tower=vision_tower)
        model._place_adapter()
        model.generation_config = copy.deepcopy(language_model.generation_config)
        return model.eval()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        config=None,
        language_model=None,
        vision_tower=None,
        text_model_kwargs=None,
        vision_model_kwargs=None,
        **kwargs,
    ):
        """Load a checkpoint: the bases from where the config says (at their own revisions), then the adapter.

        Args:
            pretrained_model_name_or_path: a folder or a Hub id. language_model, vision_tower: loaded bases to use.
            text_model_kwargs, vision_model_kwargs: more arguments for a base's own ``from_pretrained``.
            kwargs: the library's (``dtype``, ``device_map``, ``quantization_config`` of the language model, ``token``,
                ``revision`` of this checkpoint, ...), and config fields to override, such as
                ``text_model_name_or_path="/models/llama"``.

        Raises:
            ValueError: another base than the adapter was trained on, or an adapter file that does not fit, by name.
        """
        name = str(pretrained_model_name_or_path)
        where = {key: kwargs[key] for key in (*HUB_ARGUMENTS, "revision", "subfolder") if kwargs.get(key) is not None}
        given = {"config": config, **kwargs}
        base_arguments = {key: kwargs.pop(key) for key in BASE_ARGUMENTS if kwargs.get(key) is not None}
        for key in (*IGNORED_ARGUMENTS, *BASE_ARGUMENTS):
            kwargs.pop(key, None)
        generation_config = kwargs.pop("generation_config", None)
        output_loading_info = kwargs.pop("output_loading_info", False)
        attn_implementation = kwargs.pop("attn_implementation", None)
        if config is None:
            config, kwargs = cls.config_class.from_pretrained(name, return_unused_kwargs=True, **kwargs)
        if not config.has_external_bases or pretrained_model_name_or_path is None:  # None: a state dict is given
            if "quantization_config" in base_arguments:
                raise ValueError(
                    f"{name} holds every weight itself, and quantization_config would quantise its tower and adapter "
                    "too: take an adapter-only checkpoint, whose language model alone is quantised"
                )
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **given)
            # Transformers 5 puts tensors of its own in place of the frozen ones
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            model._freeze_bases()
            return loaded
        config = copy.deepcopy(config)
        hub = {key: value for key, value in where.items() if key in HUB_ARGUMENTS}
        attention = attention_by_part(attn_implementation, config)
        config._attn_implementation = attention[""].get("attn_implementation")
        dtype = base_arguments.pop("torch_dtype", None) or base_arguments.pop("dtype", None)
        base_arguments.pop("dtype", None)
        if dtype is not None:
            hub["dtype"] = dtype
        if language_model is None:
            path = _resolve(config.text_model_name_or_path, name)
            arguments = {**hub, **attention["text_config"], **base_arguments, **(text_model_kwargs or {})}
            language_model = load_language_model(path, revision=config.text_model_revision, **arguments)
        if vision_tower is None:
            path = _resolve(config.vision_model_name_or_path, name)
            arguments = {**hub, **attention["vision_config"], **(vision_model_kwargs or {})}
            vision_tower = load_vision_tower(
                path, config.vision_backend, revision=config.vision_model_revision, **arguments
            )
        check_base("language model", name, config.text_config, config.text_model_fingerprint, language_model)
        check_base("vision tower", name, config.vision_config, config.vision_model_fingerprint, vision_tower)
        model = cls(config, language_model=language_model, vision_tower=vision_tower)
        model._load_adapter(_adapter_file(name, where))
        model._place_adapter()
        model.name_or_path = config.name_or_path = name
        model.generation_config = generation_config or _generation_config(name, where, language_model)
        model.eval()
        if output_loading_info:
            none: dict = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
            return model, none
        return model

    def _load_adapter(self, path: str) -> None:
        """Read the adapter by an exact check of keys, shapes and values."""
        try:
            given = load_file(path)
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no readable safetensors file ({error}); adapters are never read from pickles, "
                "and a file cut short has to be fetched or saved again"
            ) from error
        wanted = self.adapter_state_dict()
        problems = [f"missing {key}" for key in wanted if key not in given]
        problems += [f"unexpected {key}" for key in given if key not in wanted]
        problems += [
            f"{key} is {tuple(given[key].shape)} where the config needs {tuple(wanted[key].shape)}"
            for key in wanted
            if key in given and given[key].shape != wanted[key].shape
        ]
        problems += [f"{key} holds NaN or infinity" for key in given if not given[key].isfinite().all()]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(
                f"{path} is not the adapter that its config.json describes: {'; '.join(problems[:5])}{more}"
            )
        self.load_state_dict(given, strict=False)

    def _place_adapter(self) -> None:
        """Put tower and adapter where the language model takes its input; the adapter stays float32."""
        device = computing_device(self.get_input_embeddings())
        if device.type != "meta":
            self.adapter.to(device=device, dtype=torch.float32)
            for path, weights in lora_weights(self.adapter):  # where the layers that they belong to compute
                device_of_layer = computing_device(self.language_model.get_submodule(path).get_base_layer())
                if device_of_layer.type != "meta":
                    weights.to(device_of_layer)
            self.vision_tower.to(device)
        if getattr(self.language_model, "hf_device_map", None):
            self.hf_device_map = {
                f"language_model.{k}".rstrip("."): v for k, v in self.language_model.hf_device_map.items()
            }
        if getattr(self.language_model, "quantization_method", None) is not None:
            # Trainer then leaves placing to us; is_quantized on the wrapper would make it refuse to train
            self.quantization_method = self.language_model.quantization_method
            keep_trainable(self.language_model)


def _base_name(base) -> str | None:
    """The id to record: a Hub id as it is, a folder or a GGUF file as its absolute path."""
    name = str(base) if isinstance(base, (str, os.PathLike)) else base_name(base)
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def _resolve(base: str, checkpoint: str) -> str:
    """Folders that begin with a dot are meant relative to the checkpoint, so that both can move together."""
    if base.startswith(".") and Path(checkpoint).is_dir():
        return str((Path(checkpoint) / base).resolve())
    return base


def _adapter_file(name: str, where: dict) -> str:
    for pickle in ("pytorch_model.bin", "adapter_model.bin"):
        if (Path(name) / pickle).is_file() and not (Path(name) / "model.safetensors").is_file():
            raise ValueError(f"{name} holds {pickle}, a pickle; adapters are read from model.safetensors only")
    try:
        return cached_file(name, "model.safetensors", **where)
    except OSError as error:
        raise ValueError(f"{name} holds no model.safetensors, where the adapter's weights belong: {error}") from error


def _generation_config(name: str, where: dict, language_model) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(name, **where)
    except OSError:  # none was saved: the base's own
        return copy.deepcopy(language_model.generation_config)
