"""Adaptive drop as one kernel for GPUs, in Triton: it selects, compares and drops with a row of scores in registers.

Without it, :mod:`fusion` takes three launches for that in each layer. It is used only if ``ADEM_VL_HF_TRITON=1`` is
set, because it was proven right in Triton's interpreter, on a CPU, and was not yet measured on a GPU.

Shapes: B batch, T text positions, S memory slots.
"""

import struct

import torch

try:  # not every build of PyTorch brings it
    import triton
    import triton.language as tl
except ImportError:
    triton = None

LONGEST_ROW = 8192  # slots: the scores of a row stay in the registers of one block of threads
WIDTHS = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 16}  # bits


def kernel_takes(scores: torch.Tensor) -> bool:
    """Whether the kernel can drop these scores.

    Args:
        scores (torch.Tensor): [B, T, S].

    Returns:
        False on a CPU, for a precision of other than 16 or 32 bits, and for rows that are too long.
    """
    return scores.is_cuda and scores.dtype in WIDTHS and scores.shape[-1] <= LONGEST_ROW


if triton is not None:

    @triton.jit
    def _drop_rows(
        scores, slot_mask, dropped_scores, kept, slots, positions, number, ratio_bits,
        masked: tl.constexpr, width: tl.constexpr, block: tl.constexpr,
    ):  # fmt: skip
        """Drop the smallest scores of one row. The number of them is ``number``, or a share of the slots that exist."""
        row = tl.program_id(0).to(tl.int64)
        column = tl.arange(0, block)
        inside = column < slots
        score = tl.load(scores + row * slots + column, mask=inside, other=0.0)
        exists = inside
        if masked:
            of_row = slot_mask + (row // positions) * slots
            exists = inside & (tl.load(of_row + column, mask=inside, other=0) != 0)
            ratio = ratio_bits.to(tl.int64).to(tl.float64, bitcast=True)
            number = (ratio * tl.sum(exists.to(tl.int32)).to(tl.float64)).to(tl.int32)
        # as integers, floating-point numbers are in the same order once those of the negative ones are turned
        score = tl.where(score == 0, 0.0, score).to(score.dtype)  # -0 is no less than 0
        if width == 32:
            bits = score.to(tl.int32, bitcast=True)
            order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        else:
            bits = score.to(tl.int16, bitcast=True).to(tl.int32)
            order = bits ^ ((bits >> 31) & 0x7FFF)
        order = order.to(tl.int64)
        # the greatest number with at most `number` scores below it, bit by bit: the first score in order that is kept
        threshold = -(tl.full((), 1, tl.int64) << (width - 1))
        for place in tl.static_range(width):
            higher = threshold + (tl.full((), 1, tl.int64) << (width - 1 - place))
            below = tl.sum((exists & (order < higher)).to(tl.int32))
            threshold = tl.where(below <= number, higher, threshold)
        keep = order >= threshold
        tl.store(dropped_scores + row * slots + column, tl.where(keep, score, 0.0).to(score.dtype), mask=inside)
        tl.store(kept + row * slots + column, keep.to(tl.int8), mask=inside)


@torch.library.custom_op("adem_vl::drop_smallest", mutates_args=())
def drop_smallest(
    scores: torch.Tensor, drop_ratio: float, slot_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Set the scores to zero that :func:`fusion.keep_mask` does not name.

    Args:
        scores (torch.Tensor): [B, T, S], finite, of 16 or 32 bits.
        drop_ratio (float): gamma, the share of a row's slots that is dropped.
        slot_mask (torch.Tensor | None): [B, S] bool, the slots that exist; None = all.

    Returns:
        The scores [B, T, S], and which of them were kept, [B, T, S] bool.

    Raises:
        ImportError: Triton is not installed.
        ValueError: scores of another shape or precision, rows that are too long, or a mask that does not fit.
    """
    if triton is None:
        raise ImportError("ADEM_VL_HF_TRITON=1 needs the package triton, which builds of PyTorch for GPUs bring")
    if scores.ndim != 3 or scores.dtype not in WIDTHS or scores.shape[-1] > LONGEST_ROW:
        raise ValueError(
            f"scores are [B, T, S] of 16 or 32 bits with S up to {LONGEST_ROW}, not {scores.dtype} {[*scores.shape]}"
        )
    batch, positions, slots = scores.shape
    if slot_mask is not None and (slot_mask.shape != (batch, slots) or slot_mask.device != scores.device):
        given = f"{[*slot_mask.shape]} on {slot_mask.device}"
        raise ValueError(f"slot_mask is [{batch}, {slots}] on {scores.device}, not {given}")
    scores = scores.contiguous()
    dropped, kept = torch.empty_like(scores), torch.empty_like(scores, dtype=torch.bool)
    block = triton.next_power_of_2(slots)
    mask = scores if slot_mask is None else slot_mask.contiguous().view(torch.int8)  # without a mask it is not read
    (ratio_bits,) = struct.unpack("q", struct.pack("d", drop_ratio))  # Triton would round the number to 32 bits
    if scores.numel():
        _drop_rows[(batch * positions,)](
            scores, mask, dropped, kept.view(torch.int8), slots, positions, int(drop_ratio * slots), ratio_bits,
            masked=slot_mask is not None, width=WIDTHS[scores.dtype], block=block,
            num_warps=min(16, max(1, block // 256)),
        )  # fmt: skip
    return dropped, kept


@drop_smallest.register_fake
def _shapes(scores, drop_ratio, slot_mask):
    return torch.empty_like(scores), torch.empty_like(scores, dtype=torch.bool)


def _note_kept(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(ctx, gradient, _):
    (kept,) = ctx.saved_tensors
    return gradient * kept, None, None


drop_smallest.register_autograd(_backward, setup_context=_note_kept)
