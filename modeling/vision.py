"""The frozen vision tower: a ``CLIPVisionModel`` or an ``open_clip`` ViT, the same features from either.

ADEM-VL's features are the hidden states of one block (the last but one), through the post-layer-norm, all tokens, class
token first: [I, 1+N, C] (the authors run the tower without its last block and normalise what comes out). EVLM's are
those of several blocks as they are.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

VISION_BLOCKS = ("CLIPEncoderLayer", "ResidualAttentionBlock")  # classes of the two kinds' blocks


def need_open_clip():
    """The optional package, imported when it is used (it takes seconds), or an error that says how to get it."""
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "vision_backend='open_clip' needs the package open_clip_torch: pip install open_clip_torch"
        ) from error
    return open_clip


class OpenClipVisionTower(nn.Module):
    """An ``open_clip`` image tower behind the few attributes that the model asks of a ``CLIPVisionModel``."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.config = open_clip_vision_config(visual)
        self.visual = visual

    @classmethod
    def from_config(cls, config: CLIPVisionConfig) -> "OpenClipVisionTower":
        """A tower of this shape with fresh weights."""
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
    def from_pretrained(cls, name: str, dtype: torch.dtype | None = None) -> "OpenClipVisionTower":
        """Load by open_clip's spelling: ``ViT-B-32/laion2b_s34b_b79k``, ``hf-hub:org/name``, ``local-dir:/path``."""
        module = need_open_clip()
        if ":" in name:
            model = module.create_model(name)
        else:
            architecture, _, tag = name.partition("/")
            if not tag:
                raise ValueError(
                    f"open_clip tower {name!r} names no weights; write ARCHITECTURE/TAG (such as "
                    "ViT-B-32/laion2b_s34b_b79k), hf-hub:org/name or local-dir:/path"
                )
            model = module.create_model(architecture, pretrained=tag)
        return cls(model.visual.to(dtype or torch.float32))

    def train(self, mode: bool = True) -> "OpenClipVisionTower":
        """A frozen tower never drops patches: it stays in evaluation mode."""
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.conv1.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.visual.conv1.weight.device


def open_clip_vision_config(visual: nn.Module) -> CLIPVisionConfig:
    """The ``CLIPVisionConfig`` of an open_clip ViT.

    Raises:
        ValueError: for towers that are not plain ViTs with a class token.
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
    """The transformer blocks, in order."""
    inner = (
        tower.visual.transformer.resblocks if isinstance(tower, OpenClipVisionTower) else _inner(tower).encoder.layers
    )
    return list(inner)


def _inner(tower: nn.Module) -> nn.Module:
    """Transformers before 5.16 keep the transformer one level deeper."""
    return getattr(tower, "vision_model", tower)


def vision_features(
    tower: nn.Module, pixel_values: torch.Tensor, layer: int | list[int], output_hidden_states: bool = False, **kwargs
) -> BaseModelOutputWithPooling:
    """Run the tower.

    Args:
        pixel_values: [I, 3, H, W]. layer: which hidden states the features are; a list of k ascending ones for several
            levels, which are left as they are, without the post-layer-norm.
        output_hidden_states, kwargs: of a ``CLIPVisionModel`` (``output_attentions``); open_clip has neither.

    Returns:
        ``pooler_output``, where Transformers' vision-language models have their features: [I, 1+N, C], hidden states
        ``layer`` through the post-layer-norm, class token first ([I, k, 1+N, C] of k levels).
        ``last_hidden_state`` [I, 1+N, C]: the tower's own (open_clip stops at the features: it is them),
        ``hidden_states`` and ``attentions`` when asked for.
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


class VisionAdapter(nn.Module):
    """The bottleneck beside a tower MLP: C -> 12 -> C, GELU, no bias, silent at the start (up-projection zero)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def reset(self) -> None:
        """Kaiming down-projection, up-projection zero."""
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[I, 1+N, C] in and out; computes in its input's precision, as under the authors' autocast."""
        hidden = self.dropout(F.gelu(F.linear(x, self.down.weight.to(x.dtype))))  # [I, 1+N, hidden]
        return F.linear(hidden, self.up.weight.to(x.dtype))


def _add_adapter(owner: nn.Module, index: int, scale: float, module: nn.Module, args: tuple, output: torch.Tensor):
    return output + scale * owner.adapter.vision_adapters[index](args[0])


def attach_vision_adapters(tower: nn.Module, owner: nn.Module, scale: float) -> None:
    """Put adapter i beside the MLP of block i: ``x + mlp(n) + scale * adapter(n)``.

    The adapters are looked up in ``owner.adapter`` at each call: PEFT's ``modules_to_save`` puts a copy there to train.
    A partial, not a closure, so that ``copy.deepcopy`` of the model ties the copy's hooks to the copy.
    """
    for index, block in zip(range(len(owner.adapter.vision_adapters)), tower_blocks(tower), strict=False):
        block.mlp.register_forward_hook(partial(_add_adapter, owner, index, scale))


@torch.no_grad()
def clip_vision_from_open_clip(visual: nn.Module) -> CLIPVisionModel:
    """The same tower as a ``CLIPVisionModel``: same weights, same features."""
    model = CLIPVisionModel(open_clip_vision_config(visual))
    inner, embeddings = _inner(model), _inner(model).embeddings
    embeddings.class_embedding.copy_(visual.class_embedding)
    embeddings.patch_embedding.weight.copy_(visual.conv1.weight)
    embeddings.position_embedding.weight.copy_(visual.positional_embedding)
    inner.pre_layrnorm.load_state_dict(visual.ln_pre.state_dict())
    inner.post_layernorm.load_state_dict(visual.ln_post.state_dict())
    for layer, block in zip(inner.encoder.layers, visual.transformer.resblocks, strict=True):
        layer.layer_norm1.load_state_dict(block.ln_1.state_dict())
        layer.layer_norm2.load_state_dict(block.ln_2.state_dict())
        layer.mlp.fc1.load_state_dict(block.mlp.c_fc.state_dict())
        layer.mlp.fc2.load_state_dict(block.mlp.c_proj.state_dict())
        layer.self_attn.out_proj.load_state_dict(block.attn.out_proj.state_dict())
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, biases, strict=True):
            getattr(layer.self_attn, name).weight.copy_(weight)
            getattr(layer.self_attn, name).bias.copy_(bias)
    return model.eval()
