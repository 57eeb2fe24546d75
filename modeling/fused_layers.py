"""How the visual memory reaches the decoder layers: the fused term of ADEM-VL, in any Transformers language model.

A layer's ``forward`` takes ``visual_memory`` out of its keyword arguments (see ``extend_layer``) and binds it for the
duration of the original ``forward``, where a hook on the sub-layer computes the fused term.
"""

import threading
from functools import partial

import torch
from torch import nn

from .configuration_adem_vl import AdemVLConfig
from .decoder import SeeingLayer, decoder_layers, extend_layer
from .fusion import fuse

_BOUND = threading.local()  # .visual_memory and .fused: of the layer that this thread is inside


class FusedLayerMixin(SeeingLayer):
    """Decoder layer that takes ``visual_memory`` out of its arguments and binds it for the hooks inside."""

    def forward(self, hidden_states, *args, visual_memory=None, **kwargs):
        _BOUND.visual_memory, _BOUND.fused = visual_memory, None
        try:
            output = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
            fused = _BOUND.fused
        finally:
            _BOUND.visual_memory = _BOUND.fused = None
        return output if fused is None else _plus(output, fused)


def _plus(output, fused: torch.Tensor):
    """Attention returns its weights too, and some layers a tuple."""
    return (output[0] + fused, *output[1:]) if isinstance(output, tuple) else output + fused


def _fused_term(hidden_states: torch.Tensor, config) -> torch.Tensor | None:
    memory = getattr(_BOUND, "visual_memory", None)
    if memory is None:
        return None
    key, value = (part.to(hidden_states.device) for part in memory[:2])
    slots = None if memory.slots is None else memory.slots.to(hidden_states.device)
    return fuse(hidden_states, key, value, config.kernel, config.drop_ratio, slots)


def _query(config, args: tuple, kwargs: dict, output) -> torch.Tensor:
    if config.query_from.endswith("_in"):
        return args[0] if args else kwargs["hidden_states"]
    return output[0] if isinstance(output, tuple) else output


def _add_to_layer(config, module, args, kwargs, output):
    """The MLP has run: its fused term joins the residual sum, which is the layer's output."""
    _BOUND.fused = _fused_term(_query(config, args, kwargs, output), config)


def _add_to_output(config, module, args, kwargs, output):
    fused = _fused_term(_query(config, args, kwargs, output), config)
    return output if fused is None else _plus(output, fused)


def _add_to_input(config, module, args, kwargs):
    hidden_states = args[0] if args else kwargs["hidden_states"]
    fused = _fused_term(hidden_states, config)
    if fused is None:
        return None
    if args:
        return (hidden_states + fused, *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": hidden_states + fused}


def attach_fusion(language_model: nn.Module, config: AdemVLConfig) -> None:
    """Make every decoder layer add the fused term where ``config.query_from`` and ``config.add_to`` say.

    What leaves the MLP is added to the layer's output rather than to the MLP's own: the same sum in a Llama, and the
    paper's formula still where a family normalises (Gemma, OLMo2), scales (Granite) or drops (Phi-3) the MLP's output
    before the residual sum, or sums attention and MLP in parallel (Phi, Cohere).

    The hooks are partials, not closures, so that ``copy.deepcopy`` ties the copy's hooks to the copy's config.

    Args:
        language_model (nn.Module): a causal LM.
        config (AdemVLConfig): the configuration.

    Raises:
        ValueError: for families whose layers the fused term does not fit, in one sentence, and for the attention's
            output in a family that rescales it before the residual sum.
    """
    name = type(language_model).__name__
    layers = decoder_layers(language_model)
    for layer in layers:
        if not (hasattr(layer, "mlp") and hasattr(layer, "self_attn")):
            raise ValueError(f"{name}: {type(layer).__name__} has no 'mlp' and 'self_attn' for the fused term to join")
    for layer in layers:
        module = layer.mlp if config.add_to.startswith("mlp") else layer.self_attn
        if config.add_to == "attn_out" and (
            hasattr(layer, "post_feedforward_layernorm") or getattr(layer, "residual_multiplier", 1) != 1
        ):
            raise ValueError(
                f"add_to='attn_out': {name} rescales the attention's output before the residual sum, and the fused "
                "term with it; use add_to='mlp_out'"
            )
        extend_layer(layer, FusedLayerMixin)
        if config.add_to.endswith("_in"):
            module.register_forward_pre_hook(partial(_add_to_input, config), with_kwargs=True)
        else:
            hook = _add_to_layer if config.add_to == "mlp_out" else _add_to_output
            module.register_forward_hook(partial(hook, config), with_kwargs=True)
