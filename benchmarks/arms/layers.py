"""How an arm's hooks inside a decoder layer get at what the layer was called with.

The layer's ``visual_memory`` argument stands on the layer while it runs and is gone afterwards: checkpointing, which
replays the layer's ``forward``, sees what the first pass saw.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from adem_vl_hf.modeling.decoder import SeeingLayer, decoder_layers, extend_layer


class BoundLayerMixin(SeeingLayer):
    """Keeps ``visual_memory`` out of the layer's own arguments and at hand for the hooks in it."""

    def forward(self, hidden_states, *args, visual_memory=None, **kwargs):
        self.visual_memory = visual_memory
        try:
            return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        finally:
            self.visual_memory = None


def bind_layers(language_model: nn.Module) -> list[nn.Module]:
    """Extend every decoder layer by :class:`BoundLayerMixin`; the layers."""
    layers = list(decoder_layers(language_model))
    for layer in layers:
        extend_layer(layer, BoundLayerMixin)
    return layers


def _beside_mlp(layer: nn.Module, term: Callable, mlp: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    return output if layer.visual_memory is None else output + term(args[0], layer.visual_memory)


def attach_beside_mlp(language_model: nn.Module, term: Callable[..., torch.Tensor]) -> None:
    """Add ``term(MLP input [B, T, D], visual_memory)`` to the output of every layer's MLP."""
    for layer in bind_layers(language_model):
        layer.mlp.register_forward_hook(partial(_beside_mlp, layer, term))


class MemoryAsItIs:
    """Stands before a model's base class: its layers read the memory in the precision in which it was computed."""

    def for_layers(self, memory, *text) -> tuple:
        """Hand the memory itself to the layers."""
        return {"visual_memory": memory}, None
