"""Blocks of the tower that train, and are saved with the adapter.

They stay where they are in the model. A checkpoint holds them as ``adapter.vision_blocks.<number>``: how the tower
itself names them differs between versions of Transformers.
"""

from torch import nn

from .vision_adem_vl import tower_blocks

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
