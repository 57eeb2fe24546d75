"""Decoding as two pure functions, which ``torch.export`` can trace: one reads a prompt, one writes a token.

A traced graph has no place for a key-value cache that is an object. It takes the cache's tensors as constants, with the
images of the trace among them, and tracing itself moves ``cumulative_length`` of the library's ``StaticLayer`` on, so
that the graph writes its first token one place too far. Here the cache goes in and comes out as tensors. Prompts of a
batch have one length, without padding.

Shapes: B rows, T tokens, M places in the cache.
"""

from typing import Any

import torch
from torch import nn
from transformers import StaticCache

from .modeling.modeling_base import FrozenBasesForConditionalGeneration
from .modeling.visual_memory import CACHE, VisualCacheLayer, VisualMemory

State = dict[str, Any]  # tensors and lists of tensors, by name


class _Decoding(nn.Module):
    """Holds what both functions have.

    Args:
        model (FrozenBasesForConditionalGeneration): The model, in evaluation mode.
        places (int): M, the greatest number of tokens of prompt and answer together.

    Raises:
        ImportError: When it is called, if Transformers is too old.
        ValueError: When it is called, if the language model has layers with sliding windows.
    """

    def __init__(self, model: FrozenBasesForConditionalGeneration, places: int) -> None:
        super().__init__()
        self.model, self.places = model, places

    def _empty_cache(self) -> Any:
        cache = StaticCache(config=self.model.config.get_text_config(), max_cache_len=self.places)
        if not hasattr(cache.layers[0], "cumulative_length"):
            raise ImportError("adem_vl_hf.exporting needs the caches of a newer Transformers (5.24 is tested)")
        if any(layer.is_sliding for layer in cache.layers):
            raise ValueError(
                "the language model has layers that attend to a window of tokens; their cache is not exported"
            )
        return cache

    def _run(self, input_ids: torch.Tensor, cache: Any, **memory: Any) -> tuple[torch.Tensor, State]:
        """Run the model, whose cache has the entry of the images last afterwards."""
        output = self.model(input_ids=input_ids, use_cache=True, **{CACHE: cache}, **memory)
        *text, seen = cache.layers
        state = {
            "length": text[0].cumulative_length,
            "keys": [layer.keys for layer in text],
            "values": [layer.values for layer in text],
        }
        if seen.tokens_read is not None:
            state["tokens_read"] = seen.tokens_read
        return output.logits[:, -1], state


class Prefill(_Decoding):
    """Reads a prompt."""

    def forward(self, input_ids: torch.Tensor, memory: dict[str, torch.Tensor]) -> tuple[torch.Tensor, State]:
        """Read a prompt.

        Args:
            input_ids (torch.Tensor): The prompts, [B, T].
            memory (dict[str, torch.Tensor]): What ``model.get_visual_memory`` returned, without what is None and
                without ``image_hidden_states``.

        Returns:
            The logits of the next token, [B, vocabulary], and the state for ``Step``.
        """
        return self._run(input_ids, self._empty_cache(), **memory)


class Step(_Decoding):
    """Reads one token of the answer."""

    def forward(
        self, input_ids: torch.Tensor, state: State, memory: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, State]:
        """Read one token.

        Args:
            input_ids (torch.Tensor): The tokens, [B, 1].
            state (State): The state after what was read before.
            memory (dict[str, torch.Tensor]): As for ``Prefill``, without ``image_embeds``, which the prompt has read.

        Returns:
            The logits of the next token, [B, vocabulary], and the new state.
        """
        cache = self._empty_cache()
        for layer, key, value in zip(cache.layers, state["keys"], state["values"], strict=True):
            layer.lazy_initialization(key, value)
            layer.keys, layer.values = key.clone(), value.clone()
            layer.cumulative_length = state["length"].clone()
        fields: dict[str, Any] = {field: memory.get(name) for name, field in self.model.memory_arguments.items()}
        seen = VisualCacheLayer(VisualMemory(**fields))
        seen.tokens_read = state.get("tokens_read")
        cache.layers.append(seen)
        return self._run(input_ids, cache)
