"""The fields of the models' configurations as flags of the command line: ``--media-tokens 4`` sets ``media_tokens``."""

import argparse
from typing import Any

from ..papers import PAPERS

ADEM_VL, EVLM = (paper.name for paper in PAPERS.values())
BOTH = (ADEM_VL, EVLM)


def _yes_no(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


WHOLE: dict[str, Any] = {"type": int}
NUMBER: dict[str, Any] = {"type": float}
# field -> whose it is, help, how it is read
FLAGS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    "vision_backend": (BOTH, "transformers or open_clip", {}),
    "vision_feature_layer": (
        BOTH, "hidden states of the tower to use: one, -2 = last block but one (ADEM-VL), or one for each level (EVLM)",
        {"type": int, "nargs": "+"},
    ),
    "image_token_id": (BOTH, "token that stands for an image (default: chosen)", WHOLE),
    "frame_embeddings": (BOTH, "largest number of images or frames in a sample whose order is learned", WHOLE),
    "visual_token_counts": (
        (ADEM_VL,), "scales of the visual prompt, e.g. 256 64", {"type": int, "nargs": "+"},
    ),
    "pooling": ((ADEM_VL,), "avg or max", {}),
    "drop_ratio": ((ADEM_VL,), "gamma: share of the scores dropped", NUMBER),
    "fusion_scale": ((ADEM_VL,), "alpha: weight of the fused term", NUMBER),
    "visual_scale": ((ADEM_VL,), "beta: weight of the visual prompt", NUMBER),
    "kernel": ((ADEM_VL,), "none, softmax, relu, elu, silu or silu-min", {}),
    "query_from": ((ADEM_VL,), "attn_in, attn_out, mlp_in or mlp_out", {}),
    "add_to": ((ADEM_VL,), "attn_in, attn_out, mlp_in or mlp_out", {}),
    "projector_dim": ((ADEM_VL,), "width of the projectors", WHOLE),
    "vision_adapter_dim": ((ADEM_VL,), "width of the tower's adapters, 0 = none", WHOLE),
    "vision_adapter_scale": ((ADEM_VL,), "weight of the tower's adapters", NUMBER),
    "vision_adapter_dropout": ((ADEM_VL,), "dropout inside the tower's adapters", NUMBER),
    "use_cls_token": ((ADEM_VL,), "true or false: CLIP's class token as an input embedding", {"type": _yes_no}),
    "input_visual_tokens": ((ADEM_VL,), "pooled patches as input embeddings, e.g. 0, 64, 256", WHOLE),
    "cross_attention_interval": ((EVLM,), "a cross-attention layer before every n-th decoder layer", WHOLE),
    "level_fusion": ((EVLM,), "route (each level to its layers) or concatenate", {}),
    "media_tokens": ((EVLM,), "learned input embeddings per image", WHOLE),
    "mask_mode": ((EVLM,), "what text sees: previous_image or all_frames", {}),
    "zero_vectors": ((EVLM,), "all-zero visual slots", WHOLE),
    "cross_attention_ratio": ((EVLM,), "width of the cross-attention / that of the language model", NUMBER),
    "ffn_ratio": ((EVLM,), "width of its feed-forward part / that of the language model", NUMBER),
    "moe_replicas": ((EVLM,), "copies of the feed-forward part to make experts of, 0 = dense", WHOLE),
    "moe_slices": ((EVLM,), "experts that a copy is cut into", WHOLE),
    "moe_top_k": ((EVLM,), "experts that each position uses", WHOLE),
    "router_aux_loss_coef": ((EVLM,), "weight of the load-balancing loss", NUMBER),
    "train_vision_blocks": ((EVLM,), "how many of the tower's last blocks train too", WHOLE),
}  # fmt: skip


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_config_flags(parser: argparse.ArgumentParser, models: tuple[str, ...] = BOTH) -> None:
    """A group of flags for what the models share, and one for each of ``models``."""
    for owners in (BOTH, *((model,) for model in models)):
        title = "model" if owners == BOTH else f"{owners[0]} (defaults are the paper's)"
        group = parser.add_argument_group(title)
        for name, (whose, text, reading) in FLAGS.items():
            if whose == owners:
                group.add_argument(_flag(name), dest=name, default=None, help=text, **reading)


def config_fields(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The fields that were given, for a model of this kind.

    Raises:
        ValueError: a flag of the other model.
    """
    given = {name: getattr(args, name, None) for name in FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if PAPERS[kind].name not in FLAGS[name][0]:
            raise ValueError(f"{_flag(name)} belongs to {FLAGS[name][0][0]}; --model is {kind}")
    layers = given.get("vision_feature_layer")
    if layers is not None and kind == "adem_vl":
        if len(layers) > 1:
            raise ValueError(f"--vision-feature-layer: ADEM-VL takes one, not {len(layers)}")
        given["vision_feature_layer"] = layers[0]
    return given
