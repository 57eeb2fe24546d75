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
