"""How close computed numbers have to be: one tolerance for each precision, chosen once.

What is stored (tensors of a file, ids, bytes) is compared by ``torch.equal``; so is the same call of the same model.
What is computed anew is not the same to the last bit everywhere: kernels sum in another order for another batch size,
and on some processors even where the same weights lie at another address. Such a difference is a number of roundings of
the largest values that were summed. It is therefore measured against the largest value of the expected tensor and not
against each value by itself: beside a logit of 5, one of 0.001 has the errors of the logit of 5.
"""

import math
from collections.abc import Mapping

import torch

# The part of the largest value by which computed numbers may differ. A part of 1.2e-7 is the last bit of a float32, and
# 7.8e-3 that of a bfloat16. The numbers below were measured on tiny models, with inputs of ``tiny.batch``.
TOLERANCE = {
    # The same weights read again: 0. A row alone and in a padded batch: 1.4e-6 with Llama, 5.3e-7 with Qwen 2, 8.0e-7
    # with Gemma 2. With the cache of a step before: 5.0e-7. A loss: 1.6e-7.
    # Against the same model in float64: 3.0e-6 with Llama, 8.7e-7 with Qwen 2, 7.5e-6 with Gemma 2. With seed 3, where
    # two words are attended to almost alike, it is 2.2e-5 with Llama and 6.8e-5 with Qwen 2.
    # Measured earlier and with another seed: read from shards 2.6e-6, merged and read again 1.4e-6, other kernels (of
    # attention, of merged LoRA, of GGUF) 2.8e-6, what a parameter moved by when a batch was summed in parts 4.0e-5.
    torch.float32: 1e-4,
    # one product in float16 against float64: 0
    torch.float16: 1e-2,
    # A whole model on Llama against the same in float32: 6.5e-2 for ADEM-VL, 3.6e-2 for EVLM. Other families need more:
    # ADEM-VL differs by 0.15 on Qwen 2 and by 0.34 on Gemma 2.
    torch.bfloat16: 1e-1,
    torch.float64: 1e-12,
}


def assert_close(found, expected, scale: float | None = None, name: str = "") -> None:
    """Both hold the same numbers, but for rounding.

    Args:
        found (torch.Tensor | float | Mapping): what was computed. A number counts as a float32.
        expected (torch.Tensor | float | Mapping): of the same shape or with the same keys. Of two precisions, the lower
            one counts.
        scale (float | None): the size of the numbers that were summed, where it is not that of the largest value.
        name (str): what is compared, for the error.

    Raises:
        AssertionError: they differ by more than the precision's part of ``scale``, or one of them is not finite.
    """
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value, scale, f"{name} {key}")
        return
    found, expected = (value if isinstance(value, torch.Tensor) else torch.tensor(value) for value in (found, expected))
    part = max(TOLERANCE.get(tensor.dtype, 0.0) for tensor in (found, expected))  # ids are equal
    if scale is None:
        scale = expected.detach().double().abs().max().item() if expected.numel() else 0.0
    assert math.isfinite(scale), name
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=part * scale, msg=lambda text: f"{name}: {text}".lstrip(": ")
    )


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Both hold the same tensors, to the bit."""
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
