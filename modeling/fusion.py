"""The fused term of ADEM-VL (arXiv 2410.17779, Sec. III and Algorithm 1): attention without parameters, adaptive drop.

Shapes: B batch, T text positions, S memory slots, D width of the language model.
"""

import os

import numpy as np
import torch
from torch.nn import functional as F

from .visual_memory import VisualMemory

BY_TRITON = os.environ.get("ADEM_VL_HF_TRITON") == "1"
if BY_TRITON:  # importing it takes half a second
    from .drop_kernel import drop_smallest, kernel_takes

MANY = 4096  # scores: among fewer, as in decoding, calling NumPy takes longer than selecting
ONE_IN_BITS = {torch.bfloat16: np.int16(0x3F80), torch.float16: np.int16(0x3C00)}


def kernel_map(x: torch.Tensor, kernel: str) -> torch.Tensor:
    """Apply the feature map of the parameter-free cross-attention (Table "kernel map"), over the last dimension.

    Args:
        x (torch.Tensor): [..., D].
        kernel (str): none, softmax, relu, elu, silu or silu-min.

    Returns:
        The shape of ``x``.

    Raises:
        ValueError: an unknown kernel.
    """
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
    """Choose the scores that adaptive fusion keeps.

    It drops those strictly below the ``int(drop_ratio * S)``-th of each row in ascending order. The ranking is signed
    (the most negative go first), joint over all scales and images, and carries no gradient.

    Args:
        scores (torch.Tensor): [B, T, S].
        drop_ratio (float): gamma, the share of a row's slots that is dropped.
        slot_mask (torch.Tensor | None): [B, S] bool, the slots that exist; S is then each row's own number. None = all.

    Returns:
        [B, T, S]: bool, or 1 and 0 in the precision of the scores; None where nothing is dropped.
    """
    num_dropped = int(drop_ratio * scores.shape[-1])
    if num_dropped == 0:
        return None
    scores = scores.detach()
    if slot_mask is not None:
        ranked = scores.masked_fill(~slot_mask[:, None], float("inf"))
        smallest = ranked.topk(num_dropped + 1, dim=-1, largest=False).values  # ascending
        dropped = (drop_ratio * slot_mask.sum(1).double()).long()  # [B]
        index = dropped[:, None, None].expand(*scores.shape[:2], 1)
        return scores >= smallest.gather(-1, index)
    # selecting is several times faster than sorting
    on_cpu = scores.device.type == "cpu" and type(scores) is torch.Tensor and not _is_traced()
    if on_cpu and scores.numel() >= MANY:
        return _keep_mask_by_numpy(scores, num_dropped)
    # deterministic algorithms refuse it on a GPU, for its indices' sake
    if on_cpu or (scores.is_cuda and not torch.are_deterministic_algorithms_enabled()):
        return _keep_mask_by_kthvalue(scores, num_dropped)
    # the largest of the num_dropped + 1 smallest
    return scores >= scores.topk(num_dropped + 1, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)


def _keep_mask_by_numpy(scores: torch.Tensor, num_dropped: int) -> torch.Tensor:
    """Select by NumPy: on a CPU its selection is vectorised, unlike torch's, and so is its way from bool to float."""
    one = ONE_IN_BITS.get(scores.dtype)
    if one is None:
        rows = scores.numpy()
        kept = rows >= np.partition(rows, num_dropped, axis=-1)[..., num_dropped, None]
        return torch.from_numpy(kept.astype(rows.dtype))
    # 16-bit numbers by their bits: as integers they are in the same order once those of the negative ones are turned
    bits = scores.view(torch.int16).numpy()
    rows = bits >> 15
    rows &= 0x7FFF
    rows ^= bits
    kept = rows >= np.partition(rows, num_dropped, axis=-1)[..., num_dropped, None]
    return torch.from_numpy(kept * one).view(scores.dtype)


def _keep_mask_by_kthvalue(scores: torch.Tensor, num_dropped: int) -> torch.Tensor:
    """Select by kthvalue: one launch on a GPU, where topk and a maximum are two, and the fewest calls in decoding."""
    return scores >= scores.kthvalue(num_dropped + 1, dim=-1, keepdim=True).values


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def adaptive_drop_(scores: torch.Tensor, drop_ratio: float, slot_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Drop scores in place: those that :func:`keep_mask` does not name become zero.

    Args:
        scores (torch.Tensor): [B, T, S], finite.
        drop_ratio (float): gamma, the share of a row's slots that is dropped.
        slot_mask (torch.Tensor | None): [B, S] bool, the slots that exist; None = all.
    """
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
    """Compute parameter-free cross-attention, ``drop(phi(h) @ key^T) @ value``, without projection or normalisation.

    Args:
        hidden_states (torch.Tensor): [B, T, D].
        key (torch.Tensor): phi(V + E_key), [B, S, D].
        value (torch.Tensor): alpha * (V + E_value), [B, S, D]; zero in slots that do not exist. The term is computed in
            the precision of key and value.
        kernel (str): phi, see :func:`kernel_map`.
        drop_ratio (float): gamma, the share of a row's slots that is dropped.
        slot_mask (torch.Tensor | None): [B, S] bool, the slots that exist; None = all.
    """
    # bmm: what the operator @ asks about shapes takes a GPU's host as long as the product
    scores = torch.bmm(kernel_map(hidden_states.to(key.dtype), kernel), key.transpose(1, 2))  # [B, T, S]
    if BY_TRITON and drop_ratio and kernel_takes(scores):
        scores, _ = drop_smallest(scores, drop_ratio, slot_mask)
    else:
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
    if key.device.type == "cpu" and key.dtype.itemsize == 2:
        return memory._replace(key=key.float(), value=value.float())
    return memory
