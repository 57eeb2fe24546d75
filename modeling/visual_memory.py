"""What a model has seen: the memory of a batch's images, and its place in the key-value cache of the text.

Shapes: B batch, n images a row (at most), S memory slots a row, m input embeddings an image, L cross-attention layers,
D width of the language model, W width of EVLM's cross-attention.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

# the library's name for the key-value cache, in forward and in outputs; "past_key_values" before Transformers 5.24
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


def by_old_name(past_key_values: Any) -> Any:
    """The key-value cache that was given by the library's name before Transformers 5.24, which warns from then on.

    Args:
        past_key_values (Any): the cache.

    Returns:
        The cache.
    """
    if CACHE == "cache":
        warnings.warn("`past_key_values` is deprecated; use `cache` instead", FutureWarning, stacklevel=3)
    return past_key_values


class VisualMemory(NamedTuple):
    """The memory of the images of a batch, from the adapter that computes it to the layers that read it.

    Args:
        key (Any): ADEM-VL [B, S, D]; EVLM [B, L, S, W], split into its L layers for the pass that reads it.
        value (Any): of the shape of ``key``.
        slots (Any): ADEM-VL: [B, S] bool, the slots that exist, None = all. EVLM: [B, S], the number of the image that
            each slot belongs to, and for the pass that reads it a ``SlotVisibility``.
        embeds (torch.Tensor | None): input embeddings of the images: from the adapter [B, n, m, D], from the model
            [B, n*m, D].
        all_frames (Any): EVLM: [B] bool, rows whose text sees every image.
        prompt (torch.Tensor | None): ADEM-VL: the visual prompt V, [B, S, D].
        image_outputs (Any): the vision tower's outputs, of the I images that exist; None where there is no image.
    """

    key: Any
    value: Any
    slots: Any = None
    embeds: torch.Tensor | None = None
    all_frames: Any = None
    prompt: torch.Tensor | None = None
    image_outputs: Any = None

    def of_rows(self, pick: Callable[[torch.Tensor], torch.Tensor]) -> "VisualMemory":
        """Apply a choice of rows to every tensor; the first dimension of each is the batch.

        Args:
            pick (Callable[[torch.Tensor], torch.Tensor]): takes a tensor [B, ...] and returns some of its rows.
        """
        return VisualMemory(*(part if part is None else pick(part) for part in self))


class VisualCacheLayer(DynamicLayer):
    """Keeps a memory in the cache of the text that was read with it, behind the decoder layers' own entries.

    Beams reorder it as they reorder the text. Cropping the text, when drafts are refused, leaves it alone.

    Args:
        memory (VisualMemory): what the text in the cache was read with.
    """

    is_compileable = True
    is_croppable = True
    supports_early_init = False
    max_cache_len = 0

    def __init__(self, memory: VisualMemory) -> None:
        self.memory: VisualMemory | None = None
        self.tokens_read: torch.Tensor | None = None  # [B], image tokens of the text in the cache
        super().__init__()
        self.keep(memory, memory)
        self.is_initialized = True
        if isinstance(memory.key, torch.Tensor):
            self.dtype, self.device = memory.key.dtype, memory.key.device

    def keep(self, memory: VisualMemory, newest: VisualMemory) -> None:
        """Hold a memory. The embeddings of its newest images are not in the text yet.

        Args:
            memory (VisualMemory): everything that the text reads from now on.
            newest (VisualMemory): the part of it that was added last.
        """
        self.memory, self.newest = memory._replace(embeds=None, prompt=None, image_outputs=None), newest.key
        self.placed: torch.Tensor | int = 0  # [B], embeddings of the newest images that the text has taken

    def reset(self) -> None:
        """Forget: an emptied cache has seen nothing."""
        self.memory = self.newest = self.tokens_read = None

    # the library moves and repeats a layer's tensors under these names
    @property
    def keys(self) -> Any:  # type: ignore[override]
        return None if self.memory is None else self.memory.key

    @keys.setter
    def keys(self, keys: Any) -> None:
        if self.memory is not None:
            self.memory = self.memory._replace(key=keys)

    @property
    def values(self) -> Any:  # type: ignore[override]
        return None if self.memory is None else self.memory.value

    @values.setter
    def values(self, values: Any) -> None:
        if self.memory is not None:
            self.memory = self.memory._replace(value=values)

    @property
    def max_batch_size(self) -> int:
        return 0 if self.memory is None else self.memory.key.shape[0]

    def get_seq_length(self, *args: Any) -> int:
        """No position of the text is kept here.

        Args:
            args (Any): the library's.
        """
        return 0

    def get_max_length(self) -> int:
        return -1

    def get_max_cache_shape(self) -> int:
        return -1

    def crop(self, *args: Any) -> None:
        """The images stay.

        Args:
            args (Any): the library's.
        """

    def _of_rows(self, pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.memory is not None:
            self.memory = self.memory.of_rows(pick)
        if self.tokens_read is not None:
            self.tokens_read = pick(self.tokens_read)
        if isinstance(self.placed, torch.Tensor):
            self.placed = pick(self.placed)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._of_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._of_rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._of_rows(lambda x: x[indices])


def visual_cache_layer(cache: Any) -> VisualCacheLayer | None:
    """Find what a cache keeps of images.

    Args:
        cache (Any): a ``Cache``, or None.

    Returns:
        Its layer, or None where it has none.
    """
    layers = getattr(cache, "layers", None) or []
    return next((layer for layer in reversed(layers) if isinstance(layer, VisualCacheLayer)), None)
