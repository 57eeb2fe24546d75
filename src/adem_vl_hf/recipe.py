"""The peak learning rate: the paper's at 7B, and what follows from it for other models.

The authors have found theirs for LLaMA-7B, whose width D is 4096, and batches of 32. ``benchmarks/defaults.py``
measures what the rule for other widths is worth, and whether the other settings of the paper need one.
"""

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

    With Adam, a step moves each parameter by about the rate, however large the batch is. Narrower language models need
    larger steps: the exponent is the one that leads from the authors' rate at a width of 4096 to about 4e-3 at 576,
    the width of SmolLM2-135M, which learned at least as much there as 3e-3 and 8e-3.

    Args:
        config (FrozenBasesConfig): The configuration of the model.

    Returns:
        1.125e-3 x (4096 / D)^(2/3) for ADEM-VL, which is the authors' rate at 7B, and half of that for EVLM, as in the
        paper on EVLM (6e-4 at 7B).
    """
    rate = paper_learning_rate(PAPER_BATCH) * (PAPER_WIDTH / config.text_config.hidden_size) ** (2 / 3)
    return rate if isinstance(config, AdemVLConfig) else rate / 2
