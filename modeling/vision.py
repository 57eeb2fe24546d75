"""Runs the frozen vision tower, of Transformers or of open_clip, and puts ADEM-VL's adapters into it.

Every kind of tower (``towers`` has the list) gives the same features. ADEM-VL's are the hidden states of the last block
but one, through the norm behind the last block: [I, 1+N, C], the class token first. (The authors' code runs the tower
without its last block, with the same result.) EVLM's features are the hidden states of several blocks, without the
norm.

In reading order: the parts of a tower, the blocks that run, the features, and the adapters beside the MLPs of a tower
(``VisionAdapter``).

Shapes: I images, N patches of an image, R other tokens of an image, C width of the tower.
"""

import threading
from functools import cache, partial
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .decoder import SeeingLayer, extend_layer
from .open_clip_tower import OpenClipVisionTower
from .towers import TOWERS, Tower

try:  # from 5.2 on
    from transformers.utils.output_capturing import maybe_install_capturing_hooks
except ImportError:
    maybe_install_capturing_hooks = None

# .blocks: how many blocks run in the call that this thread is inside; .as_tuple: whether a block returns a tuple
_RUNNING = threading.local()


@cache
def tower_key_mapping(model_type: str) -> dict[str, str]:
    """Say how the weights of a tower in a checkpoint of every weight are renamed for this version of Transformers.

    Since Transformers 5.16, the names of a ``CLIPVisionModel`` and of a ``SiglipVisionModel`` no longer begin with
    ``vision_model.``. Later versions read both; earlier ones read their own alone. The names of the other towers are
    those on the Hub in every file: versions that have other names in the model rename them when they load and save.

    Args:
        model_type (str): The ``model_type`` of the tower's configuration.

    Returns:
        dict[str, str]: The name in a model, by a pattern of names in a checkpoint.
    """
    row = TOWERS[model_type]
    if row.part_of is None:
        return {}
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.device("meta"):
        parts = dict(row.build(getattr(transformers, row.config_class)(**sizes)).named_children())
    # without backslashes: Transformers 5.0 makes names of the pattern when the model is saved
    renamed = {"^vision_tower.(?!vision_model|visual)": "vision_tower.vision_model."}
    return renamed if "vision_model" in parts else {}


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """List the transformer blocks of a vision tower.

    Args:
        tower (nn.Module): A tower of one of the kinds in ``TOWERS``, or an ``OpenClipVisionTower``.

    Returns:
        list[nn.Module]: The blocks in order.
    """
    if isinstance(tower, OpenClipVisionTower):
        return list(tower.visual.transformer.resblocks)
    for path in TOWERS[tower.config.model_type].blocks:
        found: Any = _inner(tower)
        for name in path.split("."):
            found = getattr(found, name, None)
        if found is not None:
            return list(found)
    raise ValueError(f"this version of Transformers keeps the blocks of {type(tower).__name__} at an unknown place")


def _inner(tower: nn.Module) -> nn.Module:
    """Get the module with the encoder, which is one level deeper in CLIP and SigLIP before Transformers 5.16."""
    return getattr(tower, "vision_model", tower)


def record_hidden_states(tower: nn.Module) -> None:
    """Install the library's hooks that return hidden states, which a tower otherwise gets in its first forward.

    ``torch.compile`` cannot trace how they are installed: they would cut each block into graphs of its own.

    Args:
        tower (nn.Module): The tower.
    """
    if maybe_install_capturing_hooks is not None and isinstance(tower, PreTrainedModel):
        maybe_install_capturing_hooks(tower)


def keep_evaluating(tower: nn.Module, mode: bool) -> None:
    """Keep a tower in which nothing trains in evaluation mode: it drops nothing, and DINOv3 moves no patches.

    The blocks themselves follow the mode of the model, because gradient checkpointing asks for it. A tower of open_clip
    is never in another mode.

    Args:
        tower (nn.Module): The tower, whose mode was set with the whole model's.
        mode (bool): The mode of the model.
    """
    if isinstance(tower, OpenClipVisionTower) or any(parameter.requires_grad for parameter in tower.parameters()):
        return
    tower.eval()
    for block in tower_blocks(tower):
        block.training = mode


class StoppingBlock(SeeingLayer):
    """Block of a tower that returns its input where the features come from a block before it."""

    place: int  # its number in the tower

    def forward(self, hidden_states, *args, **kwargs):
        blocks = getattr(_RUNNING, "blocks", None)
        if blocks is not None and self.place >= blocks:
            return (hidden_states,) if _RUNNING.as_tuple else hidden_states
        output = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        _RUNNING.as_tuple = isinstance(output, tuple)
        return output


def refuse_second_model(tower: nn.Module) -> None:
    """Refuse a tower that belongs to a model: the adapters of both would run in it, and what trains would be shared.

    Args:
        tower (nn.Module): A loaded tower, to be given to a model.

    Raises:
        ValueError: It belongs to a model.
    """
    if getattr(tower, "in_model", False):
        raise ValueError(
            f"this {type(tower).__name__} already belongs to a model of this package, or to one that could not be "
            "loaded; load a second copy of it"
        )


def let_tower_stop(tower: nn.Module) -> None:
    """Let a tower leave out the blocks behind its features, which ``vision_features`` asks of it.

    A tower of open_clip does so by itself.

    Args:
        tower (nn.Module): The tower, which belongs to a model from now on.
    """
    tower.in_model = True  # type: ignore[assignment]
    if isinstance(tower, OpenClipVisionTower):
        return
    for place, block in enumerate(tower_blocks(tower)):
        extend_layer(block, StoppingBlock)
        block.place = place  # type: ignore[assignment]


def _blocks_before(tower: nn.Module, layer: int | list[int]) -> int:
    """How many blocks the features come from; at least one, whose output shows what a block returns."""
    numbers, blocks = layer if isinstance(layer, list) else [layer], len(tower_blocks(tower))
    return max(1, *(number if number >= 0 else blocks + 1 + number for number in numbers))


def vision_features(
    tower: nn.Module,
    pixel_values: torch.Tensor,
    layer: int | list[int],
    output_hidden_states: bool = False,
    **kwargs: Any,
) -> BaseModelOutputWithPooling:
    """Run the vision tower and take features from its hidden states.

    The tower of a model stops at the features, unless hidden states or attentions are asked for.

    Args:
        tower (nn.Module): A tower of one of the kinds in ``TOWERS``, or an ``OpenClipVisionTower``.
        pixel_values (torch.Tensor): [I, 3, H, W].
        layer (int | list[int]): The number of the hidden states that the features are, as in ``hidden_states``: 0 is
            the input of the first block, -1 the output of the last. A list of k ascending numbers gives k levels
            without the norm behind the last block.
        output_hidden_states (bool): Whether to return all hidden states, too. open_clip towers have none to return.
        **kwargs (Any): Other arguments of the tower, such as ``output_attentions``. open_clip towers ignore them.

    Returns:
        BaseModelOutputWithPooling: The features are in ``pooler_output``, as in Transformers' vision-language models:
        [I, 1+N, C], through the norm behind the last block, the class token first; or [I, k, 1+N, C] for k levels.
        ``last_hidden_state`` is the hidden state of the last block that they need, whatever is asked for;
        ``hidden_states`` and ``attentions`` are the tower's own, if asked for. An open_clip tower has the features in
        ``last_hidden_state``, or the last of k levels.
    """
    device = pixel_values.device if tower.device.type == "meta" else tower.device  # accelerate brings offloaded weights
    pixel_values = pixel_values.to(device=device, dtype=tower.dtype)
    if isinstance(tower, OpenClipVisionTower):
        return _open_clip_features(tower, pixel_values, layer)
    config, needed = tower.config, _blocks_before(tower, layer)
    everything = output_hidden_states or config.output_hidden_states
    if not (everything or kwargs.get("output_attentions") or config.output_attentions):
        _RUNNING.blocks = needed
    try:
        out = tower(pixel_values, output_hidden_states=True, return_dict=True, **kwargs)
    finally:
        _RUNNING.blocks = None
    row = TOWERS[tower.config.model_type]
    if isinstance(layer, list):
        features = torch.stack([_level(tower, row, out.hidden_states[k]) for k in layer], dim=1)
    else:
        features = _normed(tower, row, out.hidden_states[layer])
    return BaseModelOutputWithPooling(
        last_hidden_state=out.hidden_states[needed],
        pooler_output=features,
        hidden_states=out.hidden_states if everything else None,
        attentions=out.attentions,
    )


def _normed(tower: nn.Module, row: Tower, states: torch.Tensor) -> torch.Tensor:
    """Make features [I, 1+N, C] of one layer's hidden states [I, 1+R+N, C] ([I, N, C] of a SigLIP)."""
    inner = _inner(tower)
    states = getattr(inner, row.norm)(states)
    if row.has_class_token:
        return _without_others(tower, row, states)
    head = getattr(inner, "head", None)  # towers that were cut out of a language model, such as Gemma 3's, have none
    first = states.mean(1) if head is None else head(states)  # [I, C]
    return torch.cat([first[:, None], states], dim=1)


def _level(tower: nn.Module, row: Tower, states: torch.Tensor) -> torch.Tensor:
    """Take one level [I, 1+N, C] from the hidden states of a block, [I, 1+R+N, C] ([I, N, C] of a SigLIP).

    The mean of the patches stands for the class token of a SigLIP: the pooling head was trained on what the last block
    and its norm give, and the first levels are far from that.
    """
    if row.has_class_token:
        return _without_others(tower, row, states)
    return torch.cat([states.mean(1, keepdim=True), states], dim=1)


def _without_others(tower: nn.Module, row: Tower, states: torch.Tensor) -> torch.Tensor:
    """Leave out the tokens that are neither the class token nor patches: [I, 1+R+N, C] -> [I, 1+N, C]."""
    others = row.left_out if isinstance(row.left_out, int) else getattr(tower.config, row.left_out)
    return torch.cat([states[:, :1], states[:, 1 + others :]], dim=1) if others else states


def _open_clip_features(
    tower: OpenClipVisionTower, pixel_values: torch.Tensor, layer: int | list[int]
) -> BaseModelOutputWithPooling:
    """Do what ``vision_features`` does for a tower of open_clip."""
    blocks = len(tower.visual.transformer.resblocks)
    out = tower.visual.forward_intermediates(
        pixel_values,
        # a hidden state k is the output of block k - 1
        indices=[(k if k >= 0 else blocks + 1 + k) - 1 for k in (layer if isinstance(layer, list) else [layer])],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    parts = zip(out["image_intermediates_prefix"], out["image_intermediates"], strict=True)
    levels = [torch.cat(tokens, dim=1) for tokens in parts]
    features = torch.stack(levels, dim=1) if isinstance(layer, list) else tower.visual.ln_post(levels[0])
    last = levels[-1] if isinstance(layer, list) else features
    return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=features)


class _Projection(nn.Linear):
    """Linear layer that computes in its input's precision.

    It is called as a module, because ZeRO-3 has a module's weights at hand only while the module is called.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class VisionAdapter(nn.Module):
    """Adds a bottleneck beside the MLP of a tower's block: C -> hidden -> C, with GELU and without bias.

    Its up-projection is zero at the start, so that an untrained adapter changes nothing. Source: the authors' code.

    Args:
        width (int): C, the width of the tower.
        hidden (int): The width of the bottleneck (12 in the authors' code).
        dropout (float): The dropout rate between the two projections.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.down = _Projection(width, hidden, bias=False)
        self.up = _Projection(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def reset(self) -> None:
        """Initialise the weights: the down-projection as Kaiming does, the up-projection with zeros."""
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the adapter's output in the dtype of its input, as the authors' autocast does.

        Args:
            x (torch.Tensor): [I, 1+N, C], the input of the MLP.

        Returns:
            torch.Tensor: [I, 1+N, C], to be scaled and added to the output of the MLP.
        """
        return self.up(self.dropout(F.gelu(self.down(x))))


def _add_adapter(
    owner: nn.Module, index: int, scale: float, module: nn.Module, args: tuple, output: torch.Tensor
) -> torch.Tensor:
    """Add adapter ``index`` to the output of an MLP; a forward hook of the MLP."""
    return output + scale * owner.adapter.vision_adapters[index](args[0])


def _stack_adapter(
    owner: nn.Module, index: int, scale: float, module: nn.Module, args: tuple, output: torch.Tensor
) -> torch.Tensor:
    """Lay adapter ``index`` behind the output of an MLP, [2, I, 1+R+N, C]; a forward hook of the MLP."""
    return torch.stack([output, scale * owner.adapter.vision_adapters[index](args[0])])


def _add_unscaled(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    """Add what was laid behind the output of an MLP to its scaled output; a forward hook of the layer scale.

    The layer scale multiplies the output of the MLP alone: it may be as small as 1e-5, which would silence an adapter.
    """
    return output[0] + args[0][1]


def _add_to_halves(
    owner: nn.Module, index: int, scale: float, norm: nn.Module, module: nn.Module, args: tuple, output: torch.Tensor
) -> torch.Tensor:
    """Add adapter ``index`` to a block whose MLP is two modules; a forward hook of the second, which adds the residual.

    The input of the MLP is not among its arguments, but the residual is, and the norm makes the one of the other.
    """
    return output + scale * owner.adapter.vision_adapters[index](norm(args[1]))


def attach_vision_adapters(tower: nn.Module, owner: nn.Module, scale: float) -> None:
    """Put adapter i beside the MLP of block i: ``x + mlp(n) + scale * adapter(n)``.

    Where a block scales the output of its MLP (DINOv2, DINOv3), ``mlp(n)`` is the scaled output.

    Args:
        tower (nn.Module): The vision tower, of one of the kinds in ``TOWERS`` or an ``OpenClipVisionTower``.
        owner (nn.Module): The model, which has the adapters in ``adapter.vision_adapters``. They are looked up at each
            call, because PEFT's ``modules_to_save`` puts a copy there to train.
        scale (float): The factor of the adapters' outputs.
    """
    # partials and not closures, so that the hooks of a deep copy of the model use the adapters of the copy
    for index, block in zip(range(len(owner.adapter.vision_adapters)), tower_blocks(tower), strict=False):
        if hasattr(block, "layer_scale2"):
            block.mlp.register_forward_hook(partial(_stack_adapter, owner, index, scale))
            block.layer_scale2.register_forward_hook(_add_unscaled)
        elif hasattr(block, "mlp"):
            block.mlp.register_forward_hook(partial(_add_adapter, owner, index, scale))
        else:  # ViT and DeiT before Transformers 5.24
            norm = block.layernorm_after
            block.output.register_forward_hook(partial(_add_to_halves, owner, index, scale, norm))
