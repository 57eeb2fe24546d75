"""The peak learning rate: the paper's at 7B, and what follows from it for other models.

The authors have found theirs for LLaMA-7B, whose width D is 4096, and batches of 32. ``benchmarks/defaults.py``
measures what the rule for other widths is worth, and whether the other settings of the paper need one.
"""

import math

from .modeling.configuration_adem_vl import AdemVLConfig
from .modeling.configuration_base import FrozenBasesConfig

# the paper: a linear rule for the batch size, which is 32 in all of its runs
BASE_LEARNING_RATE = 9e-3  # at a batch size of 256
PAPER_BATCH, PAPER_WIDTH = 32, 4096


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
