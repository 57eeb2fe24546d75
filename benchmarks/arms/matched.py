"""Sizes with which the arms train about as many numbers as ADEM-VL's demo on the embedded bases: 908,416.

Everything else is each method's own, but for two settings that the demo's recipe found for this small tower and that
the peers have too: features of the last block, and a visual prompt of weight 0.1. Each size is the one of its shape's
nearest to that number; LoRA's rank is a whole number times 115,200.
"""

from typing import Any

from adem_vl_hf.openmoji_training import RECIPES

ADEM_VL = RECIPES["adem_vl"].settings
LAST_BLOCK = {"vision_feature_layer": -1}

MATCHED: dict[str, dict[str, Any]] = {
    "floor": {},
    "adem_vl": ADEM_VL,
    "adem_vl_authors": ADEM_VL,
    "memvp": {**LAST_BLOCK, "visual_scale": ADEM_VL["visual_scale"], "projector_dim": 1025},
    "lavin": {"projector_dim": 699},
    "llama_adapter": {"projector_dim": 555},
    "llava_lora": {**LAST_BLOCK, "rank": 4, "targets": ("q_proj", "k_proj", "v_proj", "o_proj")},
    # every fifth layer sees; at the paper's widths (0.2 and 0.5) those six layers would train 3.2 million
    "evlm": {"cross_attention_interval": 5, "cross_attention_ratio": 0.11, "ffn_ratio": 0.076},
}
