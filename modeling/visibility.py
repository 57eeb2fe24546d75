"""Which position of the text sees which image (arXiv 2407.14177, Figs. 2 and 7).

Shapes: B batch, T positions of this pass, S visual slots, m tokens of the text an image, L cross-attention layers.
A slot carries the number of its image in its row (from 0), ``ALWAYS`` for a zero vector, ``NOTHING`` for none.
"""

import torch

from .visual_memory import VisualMemory

NOTHING, ALWAYS = -1, -2


def visibility(
    is_image_token: torch.Tensor,
    slots: torch.Tensor,
    tokens_read: torch.Tensor,
    image_tokens: int,
    all_frames: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute which slots each position of a pass sees.

    Tokens of an image see their own image. Text sees the image immediately before it, or every image of its row from
    the first one's tokens on (arXiv 2407.14177, Figs. 2 and 7). Text before the first image sees none: the figures have
    none there, and what is read before an image must not depend on it.

    Args:
        is_image_token (torch.Tensor): [B, T] bool.
        slots (torch.Tensor): [B, S], the image that each slot belongs to.
        tokens_read (torch.Tensor): [B], image tokens of earlier passes.
        image_tokens (int): m, tokens an image.
        all_frames (torch.Tensor): [B] bool, rows whose text sees every image.

    Returns:
        mask [B, 1, T, S]; seen [B, T], the positions that see an image; tokens_read [B] after this pass.
    """
    images = slots.amax(1) + 1  # [B], NOTHING and ALWAYS are negative
    images = images.clamp(min=0)
    count = tokens_read[:, None] + is_image_token.cumsum(1)  # [B, T]
    is_image_token = is_image_token & (count <= images[:, None] * image_tokens)  # more are tokens like any other
    count = torch.minimum(count, images[:, None] * image_tokens)
    begun = -(-count // image_tokens)  # images that have begun, this position included
    own = slots[:, None, :] == begun[:, :, None] - 1  # [B, T, S]
    own &= begun[:, :, None] > 0
    every = (slots[:, None, :] >= 0) & (begun[:, :, None] > 0)
    sees_all = (all_frames[:, None] & ~is_image_token)[:, :, None]  # [B, T, 1]
    mask = (sees_all & every) | (~sees_all & own)  # not torch.where, which ONNX Runtime does not have for booleans
    seen = mask.any(-1)
    # what sees nothing is thrown away; attending to nothing at all would be 0 / 0
    mask = mask | (slots == ALWAYS)[:, None, :] | ~seen[:, :, None]
    # contiguous: a compiled step would be compiled again for a view of another stride
    return mask[:, None], seen, count[:, -1].contiguous()


class SlotVisibility:
    """Which slots each position of a pass sees, and what the experts of the layers chose.

    No dataclass or tuple: FSDP hands its modules copies of those, and the layers fill in ``router_logits``.

    Args:
        mask (torch.Tensor): [B, 1, T, S], True = the position may attend to the slot.
        seen (torch.Tensor): [B, T], the positions that see an image.
    """

    def __init__(self, mask: torch.Tensor, seen: torch.Tensor) -> None:
        self.mask, self.seen = mask, seen
        self.router_logits: list[torch.Tensor] = []  # [B, T, E] each


def append_images(before: VisualMemory, new: VisualMemory) -> VisualMemory:
    """Put more images behind those of a memory, whose zero vectors serve for both.

    Args:
        before (VisualMemory): S slots.
        new (VisualMemory): slots of the new images, numbered from 0.

    Returns:
        Both; the new images are numbered after the old ones.
    """
    seen = before.slots.amax(1, keepdim=True).clamp(min=NOTHING) + 1  # [B, 1]
    fresh = new.slots[0] != ALWAYS  # the same in every row
    slots = torch.where(new.slots >= 0, new.slots + seen, new.slots)[:, fresh]
    return VisualMemory(
        key=torch.cat([before.key, new.key[:, :, fresh]], dim=2),
        value=torch.cat([before.value, new.value[:, :, fresh]], dim=2),
        slots=torch.cat([before.slots, slots], dim=1),
        embeds=new.embeds,
        all_frames=before.all_frames | new.all_frames,
    )
