"""Which position of the text sees which image, and what the cache keeps of the images.

Shapes: B batch, T positions of this pass, S visual slots, m tokens of the text an image, L cross-attention layers.
A slot carries the number of its image in its row (from 0), ``ALWAYS`` for a zero vector, ``NOTHING`` for none.
"""

import torch
from transformers.cache_utils import DynamicLayer

NOTHING, ALWAYS = -1, -2


def visibility(
    is_image_token: torch.Tensor,
    slots: torch.Tensor,
    tokens_read: torch.Tensor,
    image_tokens: int,
    all_frames: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mask of a pass.

    Tokens of an image see their own image. Text sees the image immediately before it, or every image of its row from
    the first one's tokens on (arXiv 2407.14177, Figs. 2 and 7). Text before the first image sees none: the figures have
    none there, and what is read before an image must not depend on it.

    Args:
        is_image_token: [B, T]. slots: [B, S]. tokens_read: [B], image tokens of earlier passes. all_frames: [B].

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
    mask = torch.where((all_frames[:, None] & ~is_image_token)[:, :, None], every, own)
    seen = mask.any(-1)
    # what sees nothing is thrown away; attending to nothing at all would be 0 / 0
    mask = mask | (slots == ALWAYS)[:, None, :] | ~seen[:, :, None]
    return mask[:, None], seen, count[:, -1]


class VisualCacheLayer(DynamicLayer):
    """Keys and values of all cross-attention layers, [B, L, S, W] each, behind the decoder layers' in the same cache.

    Beams reorder them as they do the text's; cropping text (drafts that were refused) leaves them alone.
    """

    is_compileable = True
    is_croppable = True
    supports_early_init = False
    max_cache_len = 0

    def __init__(self, *rows: torch.Tensor) -> None:
        """``key``, ``value``, ``slots`` [B, S], ``all_frames`` [B], ``tokens_read`` [B] (see :func:`visibility`)."""
        super().__init__()
        self.keys, self.values, self.slots, self.all_frames, self.tokens_read = rows
        self.newest = self.keys  # what was given last
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True

    @property
    def max_batch_size(self) -> int:
        return self.keys.shape[0]

    def append(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor, all_frames: torch.Tensor) -> None:
        """More images, behind those that are there; their zero vectors are there already."""
        self.newest = key
        if (self.slots == NOTHING).all():  # it was reset
            self.keys, self.values, self.slots, self.all_frames = key, value, slots, all_frames
            return
        seen = self.slots.amax(1, keepdim=True).clamp(min=NOTHING) + 1  # [B, 1]
        fresh = slots[0] != ALWAYS  # the same in every row
        slots = torch.where(slots >= 0, slots + seen, slots)[:, fresh]
        self.keys = torch.cat([self.keys, key[:, :, fresh]], dim=2)
        self.values = torch.cat([self.values, value[:, :, fresh]], dim=2)
        self.slots = torch.cat([self.slots, slots], dim=1)
        self.all_frames = self.all_frames | all_frames

    def get_seq_length(self, *args) -> int:
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    def crop(self, *args) -> None:
        """The images stay."""

    def reset(self) -> None:
        """An empty cache has seen nothing."""
        self.slots = torch.full_like(self.slots, NOTHING)
        self.tokens_read = torch.zeros_like(self.tokens_read)

    def _rows(self, pick) -> None:
        for name in ("keys", "values", "slots", "all_frames", "tokens_read"):
            setattr(self, name, pick(getattr(self, name)))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._rows(lambda x: x[indices])


def visual_cache_layer(past_key_values) -> VisualCacheLayer | None:
    """What this cache keeps of images, if anything."""
    layers = getattr(past_key_values, "layers", None) or []
    return next((layer for layer in reversed(layers) if isinstance(layer, VisualCacheLayer)), None)
