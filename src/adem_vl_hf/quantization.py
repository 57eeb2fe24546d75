"""A language model in 4 or 8 bits by bitsandbytes, for machines whose memory does not hold it otherwise."""

from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig


def bitsandbytes_config(bits: int, dtype: torch.dtype | str | None = None) -> BitsAndBytesConfig:
    """What ``from_pretrained`` and ``from_base_pretrained`` take as ``quantization_config``.

    Args:
        bits: 4 (QLoRA's setting, arXiv 2305.14314: NF4, and the scales quantised once more) or 8 (LLM.int8(),
            arXiv 2208.07339).
        dtype: that 4-bit weights are unpacked to and multiplied in; default bfloat16.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"{bits} bits need the package bitsandbytes: pip install 'adem-vl-hf[quantized]'")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype or torch.bfloat16,
    )


def loading_arguments(bits: int | None, dtype: torch.dtype | str | None = None) -> dict[str, Any]:
    """The keyword argument that asks for so many bits, or none for None."""
    return {} if bits is None else {"quantization_config": bitsandbytes_config(bits, dtype)}
