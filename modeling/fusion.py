"""The fused term of ADEM-VL (arXiv 2410.17779, Sec. III and Algorithm 1): attention without parameters, adaptive drop.

Shapes: B batch, T text positions, S memory slots, D width of the language model.
"""

import numpy as np
import torch
from torch.nn import functional as F

from .visual_memory import VisualMemory

MANY = 4096  # scores: among fewer, as in decoding, calling NumPy takes longer than selecting
ONE_IN_BITS = {torch.bfloat16: np.int16(0x3F80), torch.float16: np.int16(0x3C00)}


def kernel_map(x: torch.Tensor, kernel: str) -> torch.Tensor:
    """The feature map of the parameter-free cross-attention (Table "kernel map"), over the last dimension."""
    if kernel == "silu":
        return F.silu(x)
    if kernel == "none":
        return x
    if kernel == "softmax":
        return x.softmax(-1)
    if kernel == "relu":
        return F.relu(x)
    if kernel == "elu":
        return F.elu(x)
    if kernel == "silu-min":  # as the table prints it: silu(x) - min(x)
        return F.silu(x) - x.amin(-1, keepdim=True)
    raise ValueError(f"unknown kernel {kernel!r}")


def keep_mask(scores: torch.Tensor, drop_ratio: float, slot_mask: torch.Tensor | None = None) -> torch.Tensor | None:
    """Which scores [B, T, S] adaptive fusion keeps: bool, or 1 and 0 in their precision. None where it drops none.

    It drops those strictly below the ``int(drop_ratio * S)``-th of each row in ascending order. The ranking is signed
    (the most negative go first), joint over all scales and images, and carries no gradient.

    Args:
        slot_mask: [B, S], the slots that are there; S is then each row's own. None = all.
    """
    most = int(drop_ratio * scores.shape[-1])
    if most == 0:
        return None
    scores = scores.detach()
    if slot_mask is not None:
        ranked = scores.masked_fill(~slot_mask[:, None], float("inf"))
        smallest = ranked.topk(most + 1, dim=-1, largest=False).values  # ascending
        dropped = (drop_ratio * slot_mask.sum(1).double()).long()  # [B]
        index = dropped[:, None, None].expand(*scores.shape[:2], 1)
        return scores >= smallest.gather(-1, index)
    # selecting is several times faster than sorting
    on_cpu = scores.device.type == "cpu" and type(scores) is torch.Tensor and not _is_traced()
    if on_cpu and scores.numel() >= MANY:
        return _keep_mask_by_numpy(scores, most)
    # deterministic algorithms refuse it on a GPU, for its indices' sake
    if on_cpu or (scores.is_cuda and not torch.are_deterministic_algorithms_enabled()):
        return _keep_mask_by_kthvalue(scores, most)
    # the largest of the most + 1 smallest
    return scores >= scores.topk(most + 1, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)


def _keep_mask_by_numpy(scores: torch.Tensor, most: int) -> torch.Tensor:
    """On a CPU NumPy's selection is vectorised, which torch's is not, and so is its way from bool to a number."""
    one = ONE_IN_BITS.get(scores.dtype)
    if one is None:
        rows = scores.numpy()
        kept = rows >= np.partition(rows, most, axis=-1)[..., most, None]
        return torch.from_numpy(kept.astype(rows.dtype))
    # 16-bit numbers by their bits: as integers they are in the same order once those of the negative ones are turned
    bits = scores.view(torch.int16).numpy()
    rows = bits >> 15
    rows &= 0x7FFF
    rows ^= bits
    kept = rows >= np.partition(rows, most, axis=-1)[..., most, None]
    return torch.from_numpy(kept * one).view(scores.dtype)


def _keep_mask_by_kthvalue(scores: torch.Tensor, most: int) -> torch.Tensor:
    """On a GPU one launch where the smallest ones and their maximum are two; in decoding the fewest calls."""
    return scores >= scores.kthvalue(most + 1, dim=-1, keepdim=True).values


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def adaptive_drop_(scores: torch.Tensor, drop_ratio: float, slot_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Adaptive fusion, in place: the (finite) scores [B, T, S] that ``keep_mask`` does not name become zero."""
    mask = keep_mask(scores, drop_ratio, slot_mask)
    return scores if mask is None else scores.mul_(mask)


def fuse(
    hidden_states: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kernel: str,
    drop_ratio: float,
    slot_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Parameter-free cross-attention: ``drop(phi(h) @ key^T) @ value``; no projection, no softmax, no normalisation.

    Args:
        hidden_states: [B, T, D].
        key: phi(V + E_key), [B, S, D]. value: alpha * (V + E_value), [B, S, D]. It is computed in their precision.
        slot_mask: [B, S], the slots that are there (the value of the others is zero), or None = all.
    """
    # bmm: what the operator @ asks about shapes takes a GPU's host as long as the product
    scores = torch.bmm(kernel_map(hidden_states.to(key.dtype), kernel), key.transpose(1, 2))  # [B, T, S]
    # in place: nothing else needs the scores as they were, nor does the product's backward
    scores = adaptive_drop_(scores, drop_ratio, slot_mask)
    return torch.bmm(scores, value).to(hidden_states.dtype)  # [B, T, D]


def memory_for_one_position(memory: VisualMemory) -> VisualMemory:
    """Hold the memory in the precision that a step of decoding reads fastest.

    A CPU multiplies a single row by 16-bit numbers several times slower than by 32-bit ones: each step of decoding
    would spend more on two products a layer than on all the rest of the fused term (``benchmarks/fusion_speed.py``).

    Args:
        memory (VisualMemory): key and value in the language model's dtype.

    Returns:
        The same memory, in float32 where it is in 16 bits on a CPU.
    """
    key, value = memory.key, memory.value
    if key.device.type == "cpu" and key.dtype.itemsize == 2 and not _is_traced():
        return memory._replace(key=key.float(), value=value.float())
    return memory
