"""Runs the frozen vision tower, a ``CLIPVisionModel`` or an ``open_clip`` ViT, and puts ADEM-VL's adapters into it.

Both kinds of tower give the same features. ADEM-VL's are the hidden states of the last block but one, through the
post-layer-norm: [I, 1+N, C], the class token first. (The authors' code runs the tower without its last block, with the
same result.) EVLM's features are the hidden states of several blocks, without the norm.

In reading order: towers of open_clip, the features, and the adapters beside the MLPs of a tower (``VisionAdapter``).

Shapes: I images, N patches of an image, C width of the tower.
"""

from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

HF_HUB = "hf-hub:"  # how the names of open_clip begin that are repositories on the Hub
OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
VISION_BLOCKS = ("CLIPEncoderLayer", "ResidualAttentionBlock")  # class names of the blocks of both kinds of tower


@cache
def tower_key_mapping() -> dict[str, str]:
    """Say how the weights of a tower in a checkpoint of every weight are renamed for this version of Transformers.

    Since Transformers 5.16, the names of a ``CLIPVisionModel`` no longer begin with ``vision_model.``. Later versions
    read both; earlier ones read their own alone.

    Returns:
        dict[str, str]: The name in a model, by a pattern of names in a checkpoint.
    """
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.device("meta"):
        parts = dict(CLIPVisionModel(CLIPVisionConfig(**sizes)).named_children())
    # without backslashes: Transformers 5.0 makes names of the pattern when the model is saved
    renamed = {"^vision_tower.(?!vision_model|visual)": "vision_tower.vision_model."}
    return renamed if "vision_model" in parts else {}


def need_open_clip() -> ModuleType:
    """Import the optional package open_clip, which takes seconds and is therefore left until it is used.

    Returns:
        ModuleType: The package.

    Raises:
        ImportError: It is not installed. The message says how to install it.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "vision_backend='open_clip' needs the package open_clip_torch: pip install open_clip_torch"
        ) from error
    return open_clip


class OpenClipVisionTower(nn.Module):
    """Wraps an open_clip image tower in those attributes of a ``CLIPVisionModel`` that the model uses.

    Args:
        visual (nn.Module): The ``VisionTransformer`` of open_clip.

    Raises:
        ValueError: The tower is not a plain ViT with a class token.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.config = open_clip_vision_config(visual)
        self.visual = visual

    @classmethod
    def from_config(cls, config: CLIPVisionConfig) -> "OpenClipVisionTower":
        """Make a tower with fresh weights.

        Args:
            config (CLIPVisionConfig): Its shape and activation.

        Returns:
            OpenClipVisionTower: The tower.

        Raises:
            ImportError: open_clip is not installed.
        """
        activation = nn.GELU if config.hidden_act == "gelu" else need_open_clip().transformer.QuickGELU
        return cls(
            need_open_clip().transformer.VisionTransformer(
                image_size=config.image_size,
                patch_size=config.patch_size,
                width=config.hidden_size,
                layers=config.num_hidden_layers,
                heads=config.num_attention_heads,
                mlp_ratio=config.intermediate_size / config.hidden_size,
                output_dim=config.projection_dim,
                act_layer=activation,
            )
        )

    @classmethod
    def from_pretrained(cls, name: str, dtype: torch.dtype | None = None, **hub: Any) -> "OpenClipVisionTower":
        """Load a tower by the name that open_clip knows it by.

        Args:
            name (str): ``hf-hub:org/name``, ``local-dir:/path``, or ``ARCHITECTURE/TAG`` of open_clip's own list such
                as ``ViT-B-32/laion2b_s34b_b79k``.
            dtype (torch.dtype | None): The dtype of the weights. None means float32.
            **hub (Any): Hub arguments such as ``token`` and ``revision``. Of a name in open_clip's list, whose files
                open_clip fetches itself, only ``cache_dir`` is followed, and ``token`` is not needed.

        Returns:
            OpenClipVisionTower: The tower.

        Raises:
            OSError: A file cannot be reached, or is not there.
            RuntimeError: open_clip cannot load the weights.
            ValueError: The name has no tag, a Hub argument cannot be followed, or the tower is not a plain ViT with a
                class token.
            ImportError: open_clip is not installed.
        """
        module = need_open_clip()
        arguments: dict[str, Any] = {"require_pretrained": True}
        if name.startswith(HF_HUB):  # open_clip knows neither a token nor a revision
            repository = name.removeprefix(HF_HUB)
            files = [cached_file(repository, file, **hub) for file in (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS)]
            name = f"local-dir:{Path(files[0]).parent}"
        elif name.startswith("local-dir:"):
            name = str(Path(name) / hub.get("subfolder", ""))
        else:
            name, _, arguments["pretrained"] = name.partition("/")
            if not arguments["pretrained"]:
                raise ValueError(
                    f"open_clip tower {name!r} names no weights; write ARCHITECTURE/TAG (such as "
                    "ViT-B-32/laion2b_s34b_b79k), hf-hub:org/name or local-dir:/path"
                )
            for argument in ("revision", "subfolder", "local_files_only", "force_download"):
                if hub.get(argument):
                    raise ValueError(
                        f"open_clip fetches the files of {name!r} itself and does not follow {argument}; name the "
                        "tower hf-hub:org/name or local-dir:/path"
                    )
            arguments["cache_dir"] = hub.get("cache_dir")
        return cls(module.create_model(name, **arguments).visual.to(dtype or torch.float32))

    def train(self, mode: bool = True) -> "OpenClipVisionTower":
        """Stay in evaluation mode, whatever the mode of the model, because a frozen tower must not drop patches.

        Args:
            mode (bool): Ignored.

        Returns:
            OpenClipVisionTower: The tower itself.
        """
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.visual.conv1.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.visual.conv1.weight.device


def open_clip_vision_config(visual: nn.Module) -> CLIPVisionConfig:
    """Describe an open_clip ViT as a ``CLIPVisionConfig``.

    Args:
        visual (nn.Module): The ``VisionTransformer`` of open_clip.

    Returns:
        CLIPVisionConfig: Its shape and activation.

    Raises:
        ValueError: The tower is not a plain ViT with a class token.
    """
    if type(visual).__name__ != "VisionTransformer" or getattr(visual, "attn_pool", None) is not None:
        raise ValueError(
            f"open_clip tower {type(visual).__name__} is not a plain ViT with a class token; "
            "use a ViT-* architecture without attentional pooling"
        )
    block = visual.transformer.resblocks[0]
    quick = type(block.mlp.gelu).__name__ == "QuickGELU"
    return CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        projection_dim=visual.output_dim,
        hidden_act="quick_gelu" if quick else "gelu",
    )


def tower_blocks(tower: nn.Module) -> list[nn.Module]:
    """List the transformer blocks of a vision tower.

    Args:
        tower (nn.Module): A ``CLIPVisionModel`` or an ``OpenClipVisionTower``.

    Returns:
        list[nn.Module]: The blocks in order.
    """
    inner = (
        tower.visual.transformer.resblocks if isinstance(tower, OpenClipVisionTower) else _inner(tower).encoder.layers
    )
    return list(inner)


def _inner(tower: nn.Module) -> nn.Module:
    """Get the module with the encoder, which is one level deeper before Transformers 5.16."""
    return getattr(tower, "vision_model", tower)


def vision_features(
    tower: nn.Module,
    pixel_values: torch.Tensor,
    layer: int | list[int],
    output_hidden_states: bool = False,
    **kwargs: Any,
) -> BaseModelOutputWithPooling:
    """Run the vision tower and take features from its hidden states.

    Args:
        tower (nn.Module): A ``CLIPVisionModel`` or an ``OpenClipVisionTower``.
        pixel_values (torch.Tensor): [I, 3, H, W].
        layer (int | list[int]): The number of the hidden states that the features are, as in ``hidden_states``: 0 is
            the input of the first block, -1 the output of the last. A list of k ascending numbers gives k levels
            without the post-layer-norm.
        output_hidden_states (bool): Whether to return all hidden states, too. open_clip towers have none to return.
        **kwargs (Any): Other arguments of ``CLIPVisionModel``, such as ``output_attentions``. open_clip towers ignore
            them.

    Returns:
        BaseModelOutputWithPooling: The features are in ``pooler_output``, as in Transformers' vision-language models:
        [I, 1+N, C], through the post-layer-norm, the class token first; or [I, k, 1+N, C] for k levels.
        ``last_hidden_state`` [I, 1+N, C] is the output of the last block. An open_clip tower stops at the features, so
        it has the features there, or the last of k levels. ``hidden_states`` and ``attentions`` are there if asked for.
    """
    pixel_values = pixel_values.to(device=tower.device, dtype=tower.dtype)
    if isinstance(tower, OpenClipVisionTower):
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
    out = tower(pixel_values, output_hidden_states=True, return_dict=True, **kwargs)
    if isinstance(layer, list):
        features = torch.stack([out.hidden_states[k] for k in layer], dim=1)
    else:
        features = _inner(tower).post_layernorm(out.hidden_states[layer])
    return BaseModelOutputWithPooling(
        last_hidden_state=out.last_hidden_state,
        pooler_output=features,
        hidden_states=out.hidden_states if output_hidden_states or tower.config.output_hidden_states else None,
        attentions=out.attentions,
    )


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
    """Add adapter ``index`` to the output of an MLP; a forward hook."""
    return output + scale * owner.adapter.vision_adapters[index](args[0])


def attach_vision_adapters(tower: nn.Module, owner: nn.Module, scale: float) -> None:
    """Put adapter i beside the MLP of block i: ``x + mlp(n) + scale * adapter(n)``.

    Args:
        tower (nn.Module): The vision tower, a ``CLIPVisionModel`` or an ``OpenClipVisionTower``.
        owner (nn.Module): The model, which has the adapters in ``adapter.vision_adapters``. They are looked up at each
            call, because PEFT's ``modules_to_save`` puts a copy there to train.
        scale (float): The factor of the adapters' outputs.
    """
    # a partial and not a closure, so that the hooks of a deep copy of the model use the adapters of the copy
    for index, block in zip(range(len(owner.adapter.vision_adapters)), tower_blocks(tower), strict=False):
        block.mlp.register_forward_hook(partial(_add_adapter, owner, index, scale))
