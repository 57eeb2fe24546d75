"""Adapter-only checkpoints: what is saved (``loaders`` reads it back).

A checkpoint is ``config.json`` (with both bases' ids and revisions), ``model.safetensors`` (the ``adapter.`` tensors)
and the files of this bundle.
"""

import copy
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .changed_bases import LoadedBases
from .one_save import one_save
from .quantization import check_can_save, quantization_method
from .trained_in_base import check_outside_peft, lora_names, names_in_checkpoint

if TYPE_CHECKING:  # a mixin stands before the model class that it completes
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

ONE_FILE = 2**62  # bytes of a shard; adapter_file reads one

CUSTOM_PIPELINES = {
    "image-to-text": {
        "impl": "pipeline.AdemVLImageToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}


def is_adapter_key(key: str) -> bool:
    """Say whether a tensor trains.

    Args:
        key (str): its key in a checkpoint, or in a model's own adapter.
    """
    return key.startswith("adapter.")


def adapter_digest(tensors: dict[str, torch.Tensor]) -> str:
    """Compute what ties a configuration to the weights that it was saved with.

    Args:
        tensors (dict[str, torch.Tensor]): the tensors of an adapter-only checkpoint by their keys.

    Returns:
        The SHA-256 of their keys, types, shapes and values.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_digest(path: str, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Refuse weights that were not saved with their configuration. Earlier versions saved no digest.

    Args:
        path (str): the file of the weights.
        config (Any): the configuration of the checkpoint, which loses its note of the digest.
        tensors (dict[str, torch.Tensor]): the content of the file.

    Raises:
        ValueError: the two come from different saves.
    """
    noted = vars(config).pop("adapter_digest", None)
    if noted is not None and noted != adapter_digest(tensors):
        raise ValueError(
            f"{path} and the config.json beside it come from different saves: a save or a copy was interrupted, "
            "or one of them was replaced. Save or copy the checkpoint again. If you have changed the weights on "
            "purpose, remove adapter_digest from config.json; its other fields may be edited at will"
        )


def mark_initialized(module: nn.Module) -> None:
    """Keep ``post_init`` from drawing fresh weights for a base that is loaded already.

    Args:
        module (nn.Module): the base.
    """
    for part in (*module.modules(), *module.parameters(), *module.buffers()):
        part._is_hf_initialized = True


class AdapterCheckpointMixin(_Model):
    """``save_pretrained`` of an adapter on two frozen bases."""

    _keys_to_ignore_on_save: set[str] | None
    _loaded_bases: LoadedBases  # where the configuration names external bases
    auto_map: dict[str, str]  # where each class is, among the files that travel
    card_writer: Callable[[str, str], None] | None = None  # (folder, repository); the package sets it where installed

    def adapter_state_dict(self, state_dict: dict | None = None) -> dict[str, torch.Tensor]:
        """Take the tensors that are trained and saved.

        Args:
            state_dict (dict | None): the model's state dict, where somebody has gathered it; default its own.

        Returns:
            The tensors by their keys in a checkpoint.
        """
        state_dict = self.state_dict() if state_dict is None else state_dict
        renamed = names_in_checkpoint(self)
        return {renamed.get(key, key): x for key, x in state_dict.items() if is_adapter_key(key) or key in renamed}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *args: Any,
        state_dict: dict | None = None,
        save_base: bool | None = None,
        **kwargs: Any,
    ):
        """Save the adapter alone, or every weight where the config names no external bases (or ``save_base=True``).

        Bases that are no longer what was loaded (PEFT merged something into them, or they were trained) are saved, too,
        with a warning, unless ``save_base=False`` says otherwise. An adapter is one file, whatever ``max_shard_size``
        says; every weight is saved in shards of that size.

        The files take their places when all are whole (``one_save``): a full disk leaves what was there as it was.

        Args:
            save_directory (str | os.PathLike[str]): the folder, made if it is missing.
            *args (Any): of the library's ``save_pretrained``.
            state_dict (dict | None): the model's state dict, where somebody has gathered it; default its own.
            save_base (bool | None): whether every weight is saved; None = where the adapter alone would lose something.
            **kwargs (Any): of the library's ``save_pretrained``: ``push_to_hub``, ``max_shard_size``, ...

        Raises:
            ValueError: the place is a file, ``variant`` or ``safe_serialization=False`` is given, the inside of a
                ``PeftModel`` would be left behind, modules were added to the model or taken out (``check_parts``), or
                packed weights of a quantised language model would be saved.
            OSError: the disk is full, or the folder cannot be written to.
        """
        if getattr(self, "_hf_peft_config_loaded", False):  # a PEFT adapter was added: the library's own format
            if not self.name_or_path:
                raise ValueError(
                    "an adapter of PEFT was added to a model that is in no checkpoint yet, and Transformers would save "
                    "that adapter alone: save the model first, load it, and then add the adapter"
                )
            return super().save_pretrained(save_directory, *args, state_dict=state_dict, **kwargs)
        check_outside_peft(self)
        if state_dict is not None:  # that of torch.compile's module around this model has its prefix
            state_dict = {name.removeprefix("_orig_mod."): tensor for name, tensor in state_dict.items()}
        if kwargs.get("variant") is not None:
            raise ValueError(
                f"save_pretrained has no use for variant={kwargs['variant']!r}, which from_pretrained would not "
                "find: save each variant in a folder of its own"
            )
        if kwargs.get("safe_serialization") is False:
            raise ValueError(
                "safe_serialization=False would write a pickle, which from_pretrained refuses; leave it out"
            )
        target = Path(save_directory)
        if target.is_file():
            raise ValueError(f"cannot save to {save_directory}: it is a file; name a folder")
        if save_base is None:
            save_base = not self.config.has_external_bases or self._bases_changed(state_dict)
        if save_base:
            check_can_save(self.language_model)
            state_dict = self._with_lora_renamed(state_dict)
            digest = None
        else:  # Trainer hands over a full state dict under FSDP and DeepSpeed
            state_dict = self.adapter_state_dict(state_dict)
            digest = adapter_digest(state_dict)
            kwargs["max_shard_size"] = ONE_FILE
        if kwargs.get("push_to_hub"):  # which names the repository after the folder, and the one below is temporary
            kwargs.setdefault("repo_id", target.name)
        view = self._view_to_save(save_base)
        vars(view.config).pop("adapter_digest", None)  # of a file that was loaded
        if digest is not None:
            view.config.adapter_digest = digest
        if not (args[0] if args else kwargs.get("is_main_process", True)):  # which saves, and where this one would
            return None
        tensors = self.state_dict() if state_dict is None else state_dict
        with one_save(target, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())) as temporary:
            super(AdapterCheckpointMixin, view).save_pretrained(str(temporary), *args, state_dict=state_dict, **kwargs)
            for path in Path(temporary).glob("*.safetensors"):  # which safetensors lets nobody else read
                shutil.copymode(Path(temporary) / "config.json", path)
        return None

    def _upload_modified_files(self, working_dir: str, repo_id: str, *args, **kwargs):
        """The end of the library's ``push_to_hub``: the folder gets the package's model card, where it is installed."""
        if self.card_writer is not None:
            self.card_writer(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _with_lora_renamed(self, state_dict: dict | None) -> dict | None:
        """Every weight of the model, by the names in a checkpoint; as it was given where there is no LoRA."""
        renamed = lora_names(self)
        if not renamed:
            return state_dict
        tensors = self.state_dict() if state_dict is None else state_dict
        if any(tensor.is_meta for tensor in tensors.values()):  # offloaded
            from accelerate.utils.modeling import get_state_dict_offloaded_model

            tensors = get_state_dict_offloaded_model(self)
        return {renamed.get(key, key): tensor for key, tensor in tensors.items()}

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
        packed = quantization_method(self.language_model.config) not in (None, "gguf")
        self._loaded_bases = LoadedBases(self, tensors, packed)

    def check_parts(self, state_dict: dict | None = None) -> None:
        """Refuse a model with parameters that one loaded from a checkpoint would lack, or without some that it has.

        Args:
            state_dict (dict | None): the model's state dict, where somebody has gathered it; default its own.

        Raises:
            ValueError: such as of a head that was added. The message names a tensor and says what to do.
        """
        if not (self.config.has_external_bases and hasattr(self, "_loaded_bases")):
            return  # every weight is saved
        saved, keys = names_in_checkpoint(self), self.state_dict() if state_dict is None else state_dict
        added = self._loaded_bases.added(self, (key for key in keys if not is_adapter_key(key) and key not in saved))
        # somebody may have gathered some tensors alone
        removed = self._loaded_bases.removed(keys) if state_dict is None else None
        if (key := added or removed) is not None:
            how = (
                "was added to the model after it was loaded" if added else "was taken out of the model that was loaded"
            )
            raise ValueError(
                f"{key} {how}, and from_pretrained would build a model {'without' if added else 'with'} it: keep your "
                "own modules outside of the model and save them yourself, or save the adapter alone (save_base=False)"
            )

    def _bases_changed(self, state_dict: dict | None) -> bool:
        """Whether an adapter-only checkpoint would lose something, which is then said."""
        self.check_parts(state_dict)
        key = self._loaded_bases.changed(self, self.state_dict() if state_dict is None else state_dict)
        if key is not None:
            warnings.warn(
                f"{key} is not what was loaded: the bases were changed since, so the checkpoint holds every weight and "
                "not the adapter alone (save_base=False leaves the change out)",
                stacklevel=3,
            )
        return key is not None
