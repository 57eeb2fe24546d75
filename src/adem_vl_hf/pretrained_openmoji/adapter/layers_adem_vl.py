"""How the visual memory reaches the decoder layers of any Transformers language model.

Transformers' decoder models hand keyword arguments they do not know to each layer. Every layer's class becomes a
subclass (of the same name: FSDP and device maps go by it) whose ``forward`` takes ``visual_memory`` out of its keyword
arguments and binds it for the duration of the original ``forward``, where a hook on the sub-layer adds the fused term.
Nothing stays behind between calls, so checkpointing (which replays ``forward``), two forwards before one backward,
beams and threads see the memory they were called with.
"""

import threading
from functools import partial
from types import MethodType

import torch
from torch import nn

from .fusion_adem_vl import fuse

_FUSED_CLASSES: dict[type, type] = {}
_BOUND = threading.local()  # .visual_memory: of the layer that this thread is inside


class FusedLayerMixin:
    """Takes ``visual_memory`` (key, value: [B, S, D] each) out of the layer's keyword arguments."""

    def forward(self, hidden_states, *args, visual_memory=None, **kwargs):
        _BOUND.visual_memory = visual_memory
        try:
            return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        finally:
            _BOUND.visual_memory = None


def _fused_class(cls: type) -> type:
    if cls not in _FUSED_CLASSES:
        _FUSED_CLASSES[cls] = type(cls.__name__, (FusedLayerMixin, cls), {"__module__": __name__})
    return _FUSED_CLASSES[cls]


def _fused_term(hidden_states: torch.Tensor, config) -> torch.Tensor | None:
    memory = getattr(_BOUND, "visual_memory", None)
    if memory is None:
        return None
    key, value = (part.to(hidden_states.device) for part in memory)
    return fuse(hidden_states, key, value, config.kernel, config.drop_ratio)


def _query(config, args: tuple, kwargs: dict, output) -> torch.Tensor:
    if config.query_from.endswith("_in"):
        return args[0] if args else kwargs["hidden_states"]
    return output[0] if isinstance(output, tuple) else output


def _add_to_output(config, module, args, kwargs, output):
    fused = _fused_term(_query(config, args, kwargs, output), config)
    if fused is None:
        return output
    if isinstance(output, tuple):  # attention returns its weights too
        return (output[0] + fused, *output[1:])
    return output + fused


def _add_to_input(config, module, args, kwargs):
    hidden_states = args[0] if args else kwargs["hidden_states"]
    fused = _fused_term(hidden_states, config)
    if fused is None:
        return None
    if args:
        return (hidden_states + fused, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden_states + fused}


def decoder_layers(language_model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a causal LM.

    Raises:
        ValueError: for families whose layers the fused term does not fit, in one sentence.
    """
    name = type(language_model).__name__
    layers = getattr(language_model.get_decoder(), "layers", None)
    if not layers:
        raise ValueError(f"{name} has no list of decoder layers; use a decoder-only LM such as Llama, Mistral or Qwen")
    for layer in layers:
        if not (hasattr(layer, "mlp") and hasattr(layer, "self_attn")):
            raise ValueError(f"{name}: {type(layer).__name__} has no 'mlp' and 'self_attn' for the fused term to join")
        if hasattr(layer, "post_feedforward_layernorm"):
            raise ValueError(
                f"{name} normalises the MLP's output before the residual sum, where the fused term would be rescaled; "
                "this family is not supported"
            )
        if isinstance(layer, FusedLayerMixin):
            raise ValueError(f"this {name} already belongs to an ADEM-VL model; load a second copy of it")
    return layers


def input_device(language_model: nn.Module) -> torch.device:
    """Where the language model takes its input, also where its embeddings are offloaded and brought for each call."""
    embeddings = language_model.get_input_embeddings()
    device = embeddings.weight.device
    if device.type == "meta":
        device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", device)
    return torch.device(device)


def attach_fusion(language_model: nn.Module, config) -> None:
    """Make every decoder layer add the fused term where ``config.query_from`` and ``config.add_to`` say.

    The hooks are partials, not closures, so that ``copy.deepcopy`` ties the copy's hooks to the copy's config.
    """
    for layer in decoder_layers(language_model):
        layer.__class__ = _fused_class(type(layer))
        if "_old_forward" in vars(layer):  # accelerate, which spreads a model over devices, calls the one it found
            layer._old_forward = MethodType(type(layer).forward, layer)
        module = layer.mlp if config.add_to.startswith("mlp") else layer.self_attn
        if config.add_to.endswith("_in"):
            module.register_forward_pre_hook(partial(_add_to_input, config), with_kwargs=True)
        else:
            module.register_forward_hook(partial(_add_to_output, config), with_kwargs=True)
