"""The decoder layers of any Transformers language model, and how they are taught to see.

Transformers' decoder models hand keyword arguments they do not know to each layer. Every layer's class becomes a
subclass (of the same name: FSDP and device maps go by it) whose ``forward`` takes what is visual out of its keyword
arguments. Nothing stays behind between calls, so checkpointing (which replays ``forward``), two forwards before one
backward, beams and threads see what they were called with.
"""

import inspect
from types import MethodType
from typing import Any

import torch
from torch import nn

_SEEING_CLASSES: dict[tuple[type, type], type] = {}


class SeeingLayer:
    """Marks the layers that belong to a model already; the base class of the mixins of :func:`extend_layer`."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle by the classes that the layer's own was made from, because pickle finds classes by name.

        Args:
            protocol (Any): pickle's.
        """
        own = type(self)
        mixin, cls = own.__bases__[0], own.__bases__[-1]
        if _SEEING_CLASSES.get((mixin, cls)) is not own:  # made anew by FSDP, say
            return super().__reduce_ex__(protocol)
        return _empty_layer, (mixin, cls), vars(self)


def _empty_layer(mixin: type[SeeingLayer], cls: type) -> nn.Module:
    return nn.Module.__new__(_seeing_class(mixin, cls))


def _seeing_class(mixin: type[SeeingLayer], cls: type) -> type:
    made = _SEEING_CLASSES.get((mixin, cls))
    # setdefault: of two threads, both get the class of the first
    return made or _SEEING_CLASSES.setdefault((mixin, cls), type(cls.__name__, (mixin, cls), {"__module__": __name__}))


def decoder_layers(language_model: nn.Module) -> nn.ModuleList:
    """Find the decoder layers of a causal LM.

    Args:
        language_model (nn.Module): a causal LM.

    Raises:
        ValueError: it has none, or they belong to another model.
    """
    name = type(language_model).__name__
    layers = getattr(language_model.get_decoder(), "layers", None)
    if not layers:
        raise ValueError(f"{name} has no list of decoder layers; use a decoder-only LM such as Llama, Mistral or Qwen")
    if any(isinstance(layer, SeeingLayer) for layer in layers):
        raise ValueError(f"this {name} already belongs to a model of this package; load a second copy of it")
    return layers


def extend_layer(layer: nn.Module, mixin: type[SeeingLayer]) -> None:
    """Put a mixin before the layer's own class.

    Args:
        layer (nn.Module): a decoder layer.
        mixin (type[SeeingLayer]): the class to put before its own.
    """
    layer.__class__ = _seeing_class(mixin, type(layer))
    if "_old_forward" in vars(layer):  # accelerate, which spreads a model over devices, calls the one it found
        layer._old_forward = MethodType(type(layer).forward, layer)


def cache_argument(language_model: nn.Module) -> str:
    """Name the argument in which a language model takes its key-value cache.

    Transformers 5.24 renamed ``past_key_values`` to ``cache``; a language model with code of its own may not have.

    Args:
        language_model (nn.Module): a causal LM.
    """
    return "cache" if "cache" in inspect.signature(type(language_model).forward).parameters else "past_key_values"


def computing_device(module: nn.Module) -> torch.device:
    """Find where a layer computes: where accelerate brings its weight for each call, or where the weight is.

    Args:
        module (nn.Module): a layer with a weight.
    """
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device(module.weight.device if device is None else device)
