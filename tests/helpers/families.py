"""Tiny random language models of the families that the feature table names, and of more."""

from pathlib import Path

import pytest
import tiny
import transformers

V5_0 = transformers.__version__.startswith("5.0.")  # whose faults later versions do not have
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, **MIXED}
# by model_type: the fields in which a family differs from the tiny Llama
TABLE = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {"head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32},
    "gemma": {"head_dim": 8},
    "gemma2": {**GEMMA, "final_logit_softcapping": 3.0},  # so low that it shows
    "gemma3_text": GEMMA,
}
OTHERS = {
    "smollm3": {},
    "phi3": {"resid_pdrop": 0.0},
    "olmo2": {},
    "granite": {"residual_multiplier": 0.3, "logits_scaling": 2.0, "embedding_multiplier": 3.0},
    "phi": {"partial_rotary_factor": 0.5},
    "cohere": {},
}
FAMILIES = {**TABLE, **OTHERS}
# what `make test` runs: the plainest, and the one with the most beside it (norms before and after, windows, soft caps)
QUICK = ("llama", "gemma2")


def save(folder: Path, family: str, **fields) -> Path:
    """A language model of this family and its tokenizer."""
    return tiny.save_language_model(folder, family, **{**FAMILIES[family], **fields})


def save_bases(folder: Path, family: str, **fields) -> Path:
    """A folder of bases as the tests' helpers know it: ``llama``, whatever the family, and ``clip``."""
    save(folder / "llama", family, **fields)
    tiny.save_clip(folder / "clip")
    return folder


def has_windows(model) -> bool:
    """Whether some layers of the language model see the last few tokens alone."""
    return "sliding_attention" in (getattr(model.config.text_config, "layer_types", None) or [])


def parameter(family: str, *values):
    """A family, and values beside it, as a parameter of a test; of most families ``make test-slow`` runs it."""
    return pytest.param(family, *values, marks=[] if family in QUICK else pytest.mark.slow)


def parameters(names=TABLE) -> list:
    """Each of these families as a parameter."""
    return [parameter(family) for family in names]
