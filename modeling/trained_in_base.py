"""What trains inside a frozen base and is saved with the adapter: LoRA (arXiv 2106.09685) and blocks of the tower.

LoRA's matrices A [r, in] and B [out, r] stay in the layers that PEFT makes in the language model, and the blocks stay
in the vision tower. ``names_in_checkpoint`` lists the tensors that train there, and the key of each in a checkpoint of
the adapter, where every key begins with ``adapter.``. What trains, what is saved and what is loaded follow this list.
"""

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from .decoder import computing_device
from .reading import errors_naming
from .towers import name_on_the_hub
from .vision import tower_blocks

NAME = "adem_vl"  # of the LoRA inside PEFT's layers; not part of any key in a checkpoint
LORA, BLOCKS = "adapter.lora", "adapter.vision_blocks"
# Transformers' own from_pretrained reads checkpoints of every weight, and renames by patterns: LoRA's keys in the
# checkpoint, and in the model
LORA_KEY_MAPPING = {
    rf"^adapter\.lora\.(.+)\.{matrix}\.weight$": rf"language_model.\1.{matrix}.{NAME}.weight"
    for matrix in ("lora_A", "lora_B")
}


def need_peft() -> ModuleType:
    """Import the optional package PEFT.

    Returns:
        The package.

    Raises:
        ImportError: it is not installed; the message says how to get it.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("lora needs the package peft: pip install 'adem-vl-hf[peft]'") from error
    return peft


def attach_lora(language_model: nn.Module, lora: dict[str, Any]) -> None:
    """Put a fresh LoRA into the language model, as the LoRA paper's code initialises it: it changes no answer yet.

    The matrices are float32, whatever the precision of the language model, and stand where their layer computes.

    Args:
        language_model (nn.Module): the language model; PEFT replaces its layers.
        lora (dict[str, Any]): fields of ``peft.LoraConfig``. ``target_modules`` is filled in where PEFT chose it.

    Raises:
        ImportError: PEFT is not installed.
        ValueError: naming the target that the language model lacks, or that is no linear layer of its decoder.
    """
    peft = need_peft()
    _check_targets(language_model, lora["target_modules"])
    try:
        config = peft.LoraConfig(**{name: value for name, value in lora.items() if value is not None})
        peft.inject_adapter_in_model(config, language_model, adapter_name=NAME)
    except ValueError as error:
        raise ValueError(f"lora does not fit {type(language_model).__name__}: {error}") from error
    del language_model.peft_config  # this is no model that PEFT saves
    if lora["target_modules"] is None:
        lora["target_modules"] = sorted(config.target_modules)
    head = language_model.get_output_embeddings()
    for path, layer in language_model.named_modules():
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        if NAME not in layer.lora_A or layer is head:
            raise ValueError(
                f"lora: target_modules={lora['target_modules']!r} reaches {path}; name linear layers inside the decoder"
            )
        for matrix in (layer.lora_A[NAME], layer.lora_B[NAME]):
            # PEFT put it where the layer's weight is, in its precision; an offloaded weight is on the meta device
            matrix.to_empty(device=computing_device(layer.get_base_layer())).float()
        layer.reset_lora_parameters(NAME, True)  # A as nn.Linear draws it, B zero
        # a PeftModel around the whole model would switch these layers to an adapter of its own
        layer.update_layer = layer.set_adapter = partial(_refuse_second, path)


def _check_targets(language_model: nn.Module, targets) -> None:
    if not isinstance(targets, list):  # PEFT's default for the family, or a pattern
        return
    names = [name for name, _ in language_model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            last = {name.rpartition(".")[2] for name, m in language_model.named_modules() if isinstance(m, nn.Linear)}
            raise ValueError(
                f"lora: target_modules names {target!r}, which {type(language_model).__name__} does not have; "
                f"its linear layers are {', '.join(sorted(last))}"
            )


def _refuse_second(path: str, *args, **kwargs):
    raise ValueError(
        f"{path} has LoRA from config.lora, which another adapter of PEFT would switch off: call merge_and_unload() on "
        "a model loaded afresh, and give that to PEFT"
    )


def lora_layers(language_model: nn.Module) -> dict[str, Any]:
    """Find the layers that have LoRA from ``config.lora``.

    Args:
        language_model (nn.Module): the language model.

    Returns:
        PEFT's layers, by their paths in the language model.
    """
    found = {}
    for path, layer in language_model.named_modules():
        matrices = getattr(layer, "lora_A", None)
        if isinstance(matrices, nn.ModuleDict) and NAME in matrices:
            found[path] = layer
    return found


def lora_parameters(language_model: nn.Module) -> list[nn.Parameter]:
    """List LoRA's matrices.

    Args:
        language_model (nn.Module): the language model.

    Returns:
        A [r, in] and B [out, r] of every layer that has LoRA.
    """
    layers = lora_layers(language_model).values()
    return [matrix[NAME].weight for layer in layers for matrix in (layer.lora_A, layer.lora_B)]


def count_lora_parameters(config: Any) -> int:
    """Count the trainable parameters of a configuration's LoRA. This needs PEFT, and no weights.

    Args:
        config (Any): the model's configuration.

    Returns:
        Their number; 0 without LoRA.
    """
    if config.lora is None:
        return 0
    with torch.device("meta"):
        with errors_naming("text_config", "it must be the configuration of the language model"):
            language_model = AutoModelForCausalLM.from_config(config.text_config, trust_remote_code=False)
        attach_lora(language_model, dict(config.lora))
    return sum(parameter.numel() for parameter in lora_parameters(language_model))


def lora_names(model: nn.Module) -> dict[str, str]:
    """Say what LoRA's matrices are called in a checkpoint.

    The keys are those of PEFT's own files with ``adapter.lora.`` in the place of ``base_model.model.``.

    Args:
        model (nn.Module): the whole model.

    Returns:
        The key in every checkpoint, by the key in the model's state dict.
    """
    return {
        f"language_model.{path}.{matrix}.{NAME}.weight": f"{LORA}.{path}.{matrix}.weight"
        for path in lora_layers(model.language_model)
        for matrix in ("lora_A", "lora_B")
    }


def names_in_checkpoint(model: nn.Module) -> dict[str, str]:
    """Say what the tensors that train inside the bases are called in a checkpoint of the adapter.

    Args:
        model (nn.Module): the whole model.

    Returns:
        The key in such a checkpoint, by the key in the model's state dict. A checkpoint of every weight has the tower's
        blocks where they are in the tower.
    """
    numbers = {id(block): number for number, block in model.unfrozen_vision_blocks().items()}
    found = lora_names(model)
    for path, module in model.vision_tower.named_modules() if numbers else ():
        if id(module) in numbers:
            for key in module.state_dict():
                saved = name_on_the_hub(model.config.vision_config, key)
                found[f"vision_tower.{path}.{key}"] = f"{BLOCKS}.{numbers[id(module)]}.{saved}"
    return found


def rename_for_load(model: nn.Module, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any) -> None:
    """Give the tensors of a checkpoint the names that they have in the model: a ``load_state_dict`` pre-hook.

    Args:
        model (nn.Module): the whole model.
        state_dict (dict[str, torch.Tensor]): what is being loaded; it is changed in place.
        prefix (str): what the names in it begin with.
        *args (Any): what else PyTorch gives to such a hook.
    """
    for own, saved in names_in_checkpoint(model).items():
        if prefix + saved in state_dict:
            state_dict[prefix + own] = state_dict.pop(prefix + saved)


def keep_in_memory(model: nn.Module) -> None:
    """Take what trains inside the bases out of accelerate's offloading, in which every step of training would be lost.

    Args:
        model (nn.Module): the whole model, as Transformers loaded it with a ``device_map``.
    """
    for path in {name.rpartition(".")[0] for name in names_in_checkpoint(model)}:
        module = model.get_submodule(path)
        if getattr(getattr(module, "_hf_hook", None), "offload", False):
            from accelerate.hooks import remove_hook_from_module
            from accelerate.utils import align_module_device

            with align_module_device(module):  # on the device where the module computes
                here = {name: parameter.detach().clone() for name, parameter in module.named_parameters(recurse=False)}
            remove_hook_from_module(module)
            for name, tensor in here.items():
                setattr(module, name, nn.Parameter(tensor))


def unfrozen_blocks(tower: nn.Module, last: int, number: int) -> dict[int, nn.Module]:
    """Choose the blocks of a tower that train.

    Args:
        tower (nn.Module): the vision tower.
        last (int): the last of them, counted from 1.
        number (int): how many train.

    Returns:
        The blocks by their numbers, counted from 0.
    """
    blocks = tower_blocks(tower)
    return {index: blocks[index] for index in range(max(0, last - number), last)}


def prepare_unfrozen_blocks(model: nn.Module) -> None:
    """Give the tower the precision that its unfrozen blocks train in, if it has any.

    Args:
        model (nn.Module): the whole model.
    """
    if model.unfrozen_vision_blocks():
        model.vision_tower.float()  # what trains is float32, and a tower has one precision


def unfreeze_blocks(model: nn.Module, number: int) -> None:
    """Let the last blocks of a model's tower train from now on, as they are.

    Args:
        model (nn.Module): the whole model.
        number (int): how many blocks train.

    Raises:
        ValueError: fewer than are saved with the adapter already, or more than the tower has.
    """
    config, before = model.config, model.config.train_vision_blocks
    if number < before:
        raise ValueError(
            f"{number} blocks are fewer than the {before} that train already and are saved with the adapter; to freeze "
            "some of them, set their requires_grad_(False)"
        )
    config.train_vision_blocks = number
    try:
        config.check_numbers()
    except ValueError:
        config.train_vision_blocks = before
        raise
    prepare_unfrozen_blocks(model)
    for block in model.unfrozen_vision_blocks().values():
        block.requires_grad_(True)
    if config.has_external_bases:  # they are no part of the tower that the checkpoint leaves out any more
        trained = names_in_checkpoint(model)
        model._loaded_bases.forget(trained)
        model._keys_to_ignore_on_save.difference_update(trained)


def check_outside_peft(model: nn.Module) -> None:
    """Refuse to save or merge the inside of a ``PeftModel``, whose trained parts would be left behind.

    Args:
        model (nn.Module): the whole model.

    Raises:
        ValueError: naming a layer that PEFT has wrapped, and what to do.
    """
    own = {f"language_model.{path}" for path in lora_layers(model.language_model)}
    for name, module in model.named_modules():
        # PEFT's layers and the wrapper of modules_to_save
        if name not in own and (hasattr(module, "base_layer") or hasattr(module, "original_module")):
            raise ValueError(
                f"{name} is wrapped by PEFT: save the PeftModel itself, or call its merge_and_unload() and go on with "
                "the model that it returns"
            )


class LoraMixin:
    """``merge_and_unload`` of a model with ``config.lora``."""

    config: Any
    language_model: nn.Module

    def merge_and_unload(self):
        """Add LoRA to the language model's weights and drop it: the same answers, computed without it.

        The language model is no longer the one on disk, so the model forgets where its bases came from: from now on it
        is saved whole.

        Returns:
            The model itself.

        Raises:
            ValueError: there is no LoRA, the language model is quantised, or merging would write NaN or infinity.
        """
        config = self.config
        if config.lora is None:
            raise ValueError("this model has no LoRA to merge (config.lora is None)")
        if getattr(self.language_model, "quantization_method", None) is not None:
            raise ValueError(
                "the language model is quantised, and what LoRA adds would be rounded away: load the checkpoint "
                "without quantization_config, then merge"
            )
        check_outside_peft(self)
        for path, layer in lora_layers(self.language_model).items():
            layer.merge(safe_merge=True)
            parent, _, name = path.rpartition(".")
            setattr(self.language_model.get_submodule(parent), name, layer.get_base_layer())
        config.lora = None
        for base in ("text_model", "vision_model"):
            for field in ("name_or_path", "revision", "subfolder", "fingerprint"):
                setattr(config, f"{base}_{field}", None)
        self._keys_to_ignore_on_save = None
        return self
