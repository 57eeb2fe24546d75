"""Settings that depend on the sizes of the models: the paper's at 7B, and what follows from them for others.

The authors have found their settings for LLaMA-7B (width D = 4096), CLIP ViT-L/14 (width C = 1024, S = 320 slots of
memory) and batches of 32. The rules below give exactly those there, and others where the models are smaller.
``benchmarks/defaults.py`` measures what they are worth.
"""

import math
from typing import Any

from transformers import PretrainedConfig

from .modeling.configuration_adem_vl import AdemVLConfig
from .modeling.configuration_base import FrozenBasesConfig

# the paper: a linear rule for the batch size, which is 32 in all of its runs
BASE_LEARNING_RATE = 9e-3  # at a batch size of 256
PAPER_BATCH = 32
PAPER_WIDTH, PAPER_TOWER_WIDTH, PAPER_SLOTS = 4096, 1024, 320
DEEP = 12  # blocks of a tower; the last block of a shallower one still does much of the work


def paper_learning_rate(batch: int) -> float:
    """Return the peak rate of the authors' linear rule.

    Args:
        batch (int): The number of samples per step.

    Returns:
        9e-3 x batch / 256.
    """
    return BASE_LEARNING_RATE * batch / 256


def peak_learning_rate(config: FrozenBasesConfig) -> float:
    """Return the peak rate for a model, whatever the batch size.

    With Adam, a step moves each parameter by about the rate, however large the batch is. What such a step changes in
    the hidden states grows with the square root of their width, so that narrower models need larger steps.

    Args:
        config (FrozenBasesConfig): The configuration of the model.

    Returns:
        1.125e-3 x sqrt(4096 / D) for ADEM-VL, which is the authors' rate at 7B, and half of that for EVLM, as in the
        paper on EVLM (6e-4 at 7B).
    """
    rate = paper_learning_rate(PAPER_BATCH) * math.sqrt(PAPER_WIDTH / config.text_config.hidden_size)
    return rate if isinstance(config, AdemVLConfig) else rate / 2


def adapter_fields(text: PretrainedConfig, vision: PretrainedConfig) -> dict[str, Any]:
    """Return the fields of ADEM-VL's configuration that follow from the sizes of its bases.

    - ``visual_scale``: keys and values both have this factor, and the fused term sums over D dimensions and S slots. So
      it is 0.01 x sqrt(4096 x 320 / (D x S)), and never less than the paper's 0.01.
    - ``projector_dim``: so many that a projector has as many parameters as the paper's, from 128 to 512.
    - ``vision_feature_layer``: the last block but one, or the last of a tower with fewer than 12.

    Args:
        text (PretrainedConfig): The configuration of the language model.
        vision (PretrainedConfig): The configuration of the vision tower.

    Returns:
        The fields. For LLaMA-7B and CLIP ViT-L/14 they are the defaults of ``AdemVLConfig``.
    """
    config = AdemVLConfig(text_config=text, vision_config=vision)
    width, tower_width = config.text_config.hidden_size, config.vision_config.hidden_size
    room = PAPER_WIDTH * PAPER_SLOTS / (width * config.memory_size)
    rank = 128 * (PAPER_WIDTH + PAPER_TOWER_WIDTH) / (width + tower_width)
    return {
        "visual_scale": round(0.01 * max(1.0, math.sqrt(room)), 3),
        "projector_dim": min(512, max(128, 64 * round(rank / 64))),
        "vision_feature_layer": -2 if config.vision_config.num_hidden_layers >= DEEP else -1,
    }
