"""Chooses the fastest precision and attention of the frozen models for training on this machine.

It stands apart from ``training``, whose import of the ``Trainer`` takes longer than to describe an image.
"""

import os
from typing import Any

import torch


def launched_processes() -> int:
    """Count the processes that torchrun or ``accelerate launch`` started.

    Returns:
        Their number, or 1 without a launcher.
    """
    return int(os.environ.get("WORLD_SIZE", 1))


def fastest_setting() -> dict[str, Any]:
    """Choose the precision and the attention of the frozen bases for training on this machine.

    On a GPU these are bfloat16 and the default attention of Transformers. On a CPU they are eager attention, because
    the backward pass of the fused one is slower, and bfloat16 where the processor multiplies it (AMX-BF16,
    AVX512-BF16), else float32, which is a dozen times faster there.

    Returns:
        ``dtype``, and on a CPU ``attn_implementation``: arguments of ``build_model`` and ``load_checkpoint``.
    """
    if torch.cuda.is_available():
        return {"dtype": torch.bfloat16}
    # all processes must choose the same, and those of other hosts may have other processors
    one_host = launched_processes() == int(os.environ.get("LOCAL_WORLD_SIZE", launched_processes()))
    fast = one_host and multiplies_bfloat16()
    return {"dtype": torch.bfloat16 if fast else torch.float32, "attn_implementation": "eager"}


def multiplies_bfloat16() -> bool:
    """Say whether this processor has instructions that multiply bfloat16.

    Returns:
        True with AMX-BF16 or AVX512-BF16, unless ``ATEN_CPU_CAPABILITY`` or ``ONEDNN_MAX_CPU_ISA`` turns them off.
    """
    switched_off = "AVX512" not in torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if switched_off or (limit and not any(name in limit for name in ("BF16", "AMX", "DEFAULT"))):
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
