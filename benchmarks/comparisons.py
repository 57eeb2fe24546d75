"""The runs of compare.py: the peers, and the ablation tables of the ADEM-VL paper. Each is an arm with settings."""

import json
from typing import Any, NamedTuple

import tables
from arms import matched_sizes

from adem_vl_hf.openmoji_training import RECIPES

OURS = RECIPES["adem_vl"].settings


class Run(NamedTuple):
    """One training.

    Args:
        arm (str): a key of ``ARMS``.
        settings (dict[str, Any]): its settings.
        paper (float | None): the ScienceQA average that the ADEM-VL paper prints for it, in per cent; None if none.
    """

    arm: str
    settings: dict[str, Any]
    paper: float | None = None


def ours(paper: float | None = None, **settings: Any) -> Run:
    """A run of ADEM-VL with the settings of the demo, and these. Defaults are left out, so that equal runs are equal.

    Args:
        paper (float | None): as in ``Run``.
        settings (Any): fields of ``AdemVLConfig``.

    Returns:
        The run.
    """
    changed = {name: value for name, value in settings.items() if value != DEFAULTS.get(name)}
    return Run("adem_vl", {**OURS, **changed}, paper)


def peer(name: str, paper: float | None = None) -> Run:
    """A run of another method, with about as many trainable parameters.

    Args:
        name (str): a key of ``ARMS``.
        paper (float | None): as in ``Run``.

    Returns:
        The run.
    """
    return Run(name, matched_sizes(name), paper)


WHOLE, HALF, QUARTER = 64, 16, 4  # the grid of 8 x 8, and pooled; the paper's are 256, 64 and 16 of a grid of 16 x 16
DEFAULTS = {
    "visual_token_counts": [WHOLE, HALF],
    "pooling": "avg",
    "input_visual_tokens": 0,
    "use_cls_token": True,
    "query_from": "mlp_in",
    "add_to": "mlp_out",
    "kernel": "silu",
}
MEMVP = {**matched_sizes("memvp"), "memory_slots": WHOLE, "projector_dim": OURS["projector_dim"]}
ONE_SCALE = {"visual_token_counts": [WHOLE], "drop_ratio": 0.0}
GROUPS: dict[str, dict[str, Run]] = {
    "peers": {
        "language model alone": peer("floor"),
        "ADEM-VL": peer("adem_vl", 93.85),
        "MemVP": peer("memvp", 93.07),
        "LaVIN": peer("lavin", 89.41),
        "LLaMA-Adapter": peer("llama_adapter", 85.19),
        "LLaVA-LoRA": peer("llava_lora", 90.85),
        "EVLM": peer("evlm"),
    },
    "ladder": {
        "baseline": Run("memvp", MEMVP, 92.45),
        "+ class token": Run("memvp", {**MEMVP, "use_cls_token": True}, 92.61),
        "+ parameter-free cross-attention": ours(93.37, **ONE_SCALE),
        "+ multiscale visual prompt": ours(93.47, drop_ratio=0.0),
        "+ adaptive fusion": ours(93.85),
    },
    "placement": {
        "attn_in, attn_in": ours(92.19, query_from="attn_in", add_to="attn_in"),
        "attn_in, attn_out": ours(93.18, query_from="attn_in", add_to="attn_out"),
        "attn_out, attn_out": ours(92.00, query_from="attn_out", add_to="attn_out"),
        "mlp_in, mlp_in": ours(91.77, query_from="mlp_in", add_to="mlp_in"),
        "mlp_in, mlp_out": ours(93.85),
        "mlp_out, mlp_out": ours(92.27, query_from="mlp_out", add_to="mlp_out"),
    },
    "kernel": {
        "none": ours(92.16, kernel="none"),
        "softmax": ours(79.42, kernel="softmax"),
        "relu": ours(91.99, kernel="relu"),
        "elu": ours(92.45, kernel="elu"),
        "silu": ours(93.85),
        "silu-min": ours(38.58, kernel="silu-min"),
    },
    "scales": {
        f"{' + '.join(map(str, counts))}{', max' if pooling == 'max' else ''}": ours(
            paper, visual_token_counts=list(counts), pooling=pooling
        )
        for counts, pooling, paper in (
            ((WHOLE,), "avg", 93.70), ((HALF,), "avg", 92.82), ((QUARTER,), "avg", 91.65),
            ((HALF, QUARTER), "avg", 93.24),
            ((WHOLE, QUARTER), "avg", 93.65), ((WHOLE, HALF), "avg", 93.85), ((WHOLE, HALF, QUARTER), "avg", 93.59),
            ((WHOLE, HALF), "max", 93.55),
        )
    },
    "visual input": {
        f"{tokens} tokens{', class token' if cls else ''}": ours(paper, input_visual_tokens=tokens, use_cls_token=cls)
        for tokens, cls, paper in (
            (0, False, 92.97), (0, True, 93.85), (HALF, False, 92.47), (HALF, True, 92.86), (WHOLE, False, 89.86),
            (WHOLE, True, 90.17),
        )
    },
}  # fmt: skip


def key(run: Run) -> str:
    """The name of a run in file names.

    Args:
        run (Run): a run of ``GROUPS``.

    Returns:
        The name of its first group and its name there, so that equal runs of two groups have one name.
    """
    settings = json.dumps(run.settings, sort_keys=True)
    same = [
        f"{group} {name}"
        for group, runs in GROUPS.items()
        for name, one in runs.items()
        if one.arm == run.arm and json.dumps(one.settings, sort_keys=True) == settings
    ]
    return tables.file_name(same[0])
