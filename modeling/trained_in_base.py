"""LoRA (arXiv 2106.09685) in the frozen language model, trained and saved beside the adapter.

PEFT makes the layers and runs them. Their matrices A [r, in] and B [out, r] are registered under ``adapter.lora`` and
nowhere else, so that LoRA trains, is saved, resumed and placed as every other part of the adapter is. The keys are
those of PEFT's own files with ``adapter.lora.`` in the place of ``base_model.model.``.
"""

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from .vision import tower_blocks

NAME = "adem_vl"  # of the LoRA inside PEFT's layers; not part of any key


def need_peft():
    """The optional package, or an error that says how to get it."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("lora needs the package peft: pip install 'adem-vl-hf[peft]'") from error
    return peft


class LoraWeights(nn.Module):
    """The matrices of one layer of the language model, the very modules that PEFT's layer computes with."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.lora_A, self.lora_B = layer.lora_A[NAME], layer.lora_B[NAME]
        self.lora_dropout = layer.lora_dropout[NAME]

    def reset(self) -> None:
        """The initialisation of the LoRA paper's code: A as nn.Linear draws it, B zero."""
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)


def attach_lora(language_model: nn.Module, lora: dict) -> nn.Module:
    """Put LoRA into the language model.

    Returns:
        What to register as ``adapter.lora``: a tree of :class:`LoraWeights`, named as the layers they belong to.
        ``lora["target_modules"]`` is filled in where PEFT chose it.

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
    tree, head = nn.Module(), language_model.get_output_embeddings()
    for path, layer in list(language_model.named_modules()):
        if not isinstance(layer, peft.tuners.lora.LoraLayer):
            continue
        if NAME not in layer.lora_A or layer is head:
            raise ValueError(
                f"lora: target_modules={lora['target_modules']!r} reaches {path}; name linear layers inside the decoder"
            )
        parent, _, name = path.rpartition(".")
        _branch(tree, parent).add_module(name, LoraWeights(layer))
        for hidden in ("lora_A", "lora_B", "lora_dropout"):
            modules = getattr(layer, hidden)
            delattr(layer, hidden)
            object.__setattr__(layer, hidden, modules)  # at hand for PEFT, and no second registration
        # a PeftModel around the whole model would switch these layers to an adapter of its own
        layer.update_layer = layer.set_adapter = partial(_refuse_second, path)
    return tree


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


def _branch(tree: nn.Module, path: str) -> nn.Module:
    for name in path.split("."):
        if not hasattr(tree, name):
            tree.add_module(name, nn.Module())
        tree = getattr(tree, name)
    return tree


def _refuse_second(path: str, *args, **kwargs):
    raise ValueError(
        f"{path} has LoRA from config.lora, which another adapter of PEFT would switch off: call merge_and_unload() on "
        "a model loaded afresh, and give that to PEFT"
    )


def lora_weights(adapter: nn.Module) -> list[tuple[str, LoraWeights]]:
    """The paths in the language model of the layers that have LoRA, with their matrices."""
    tree = getattr(adapter, "lora", None)
    return [] if tree is None else [(n, part) for n, part in tree.named_modules() if isinstance(part, LoraWeights)]


def count_lora_parameters(config) -> int:
    """Trained numbers of a configuration's LoRA; 0 without one. Needs PEFT, and no weights."""
    if config.lora is None:
        return 0
    with torch.device("meta"):
        tree = attach_lora(AutoModelForCausalLM.from_config(config.text_config), dict(config.lora))
    return sum(p.numel() for p in tree.parameters())


class LoraMixin:
    """``merge_and_unload`` of a model with ``config.lora``."""

    config: Any
    language_model: nn.Module
    adapter: nn.Module

    def _attach_lora(self) -> None:
        if self.config.lora is not None:
            self.adapter.lora = attach_lora(self.language_model, self.config.lora)

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
        for path, _ in lora_weights(self.adapter):
            layer = self.language_model.get_submodule(path)
            layer.merge(safe_merge=True)
            parent, _, name = path.rpartition(".")
            setattr(self.language_model.get_submodule(parent), name, layer.get_base_layer())
        del self.adapter.lora
        config.lora = None
        for base in ("text_model", "vision_model"):
            for field in ("name_or_path", "revision", "fingerprint"):
                setattr(config, f"{base}_{field}", None)
        self._keys_to_ignore_on_save = None
        return self


def check_outside_peft(model: nn.Module) -> None:
    """Refuse to save or merge the inside of a ``PeftModel``, whose trained parts would be left behind.

    Raises:
        ValueError: naming a layer that PEFT has wrapped, and what to do.
    """
    own = {f"language_model.{path}" for path, _ in lora_weights(model.adapter)}
    for name, module in model.named_modules():
        # PEFT's layers and the wrapper of modules_to_save
        if name not in own and (hasattr(module, "base_layer") or hasattr(module, "original_module")):
            raise ValueError(
                f"{name} is wrapped by PEFT: save the PeftModel itself, or call its merge_and_unload() and go on with "
                "the model that it returns"
            )


PREFIX = "adapter.vision_blocks"


def unfrozen_blocks(tower: nn.Module, last: int, number: int) -> dict[int, nn.Module]:
    """The ``number`` blocks that end with block ``last`` (counted from 1), by their numbers from 0."""
    blocks = tower_blocks(tower)
    return {index: blocks[index] for index in range(max(0, last - number), last)}


def names_in_checkpoint(model: nn.Module) -> dict[str, str]:
    """For every tensor of the model's unfrozen blocks: its state-dict key -> its key in a checkpoint."""
    chosen = {id(block): index for index, block in model.unfrozen_vision_blocks().items()}
    found = {}
    for path, module in model.vision_tower.named_modules() if chosen else ():
        if id(module) in chosen:
            for key in module.state_dict():
                found[f"vision_tower.{path}.{key}"] = f"{PREFIX}.{chosen[id(module)]}.{key}"
    return found


def rename_for_load(model: nn.Module, state_dict: dict, prefix: str, *args) -> None:
    """A ``load_state_dict`` pre-hook: from the names in a checkpoint to the model's own."""
    for own, saved in names_in_checkpoint(model).items():
        if prefix + saved in state_dict:
            state_dict[prefix + own] = state_dict.pop(prefix + saved)


def prepare_unfrozen_blocks(model: nn.Module) -> None:
    """The precision that the model's unfrozen blocks train in, and how they are found in a checkpoint."""
    if model.unfrozen_vision_blocks():
        model.vision_tower.float()  # what trains is float32, and a tower has one precision
        model.register_load_state_dict_pre_hook(rename_for_load)


def unfreeze_blocks(model: nn.Module, number: int) -> None:
    """Let the last ``number`` blocks of a model's tower train from now on, as they are.

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
        for key in names_in_checkpoint(model):
            model._base_samples.pop(key, None)
            model._keys_to_ignore_on_save.discard(key)
