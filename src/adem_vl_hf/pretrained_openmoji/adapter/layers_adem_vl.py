"""How the visual memory reaches the decoder layers of any Transformers language model.

Transformers' decoder models hand keyword arguments they do not know to each layer. Every layer's class becomes a
subclass (of the same name: FSDP and device maps go by it) whose ``forward`` takes ``visual_memory`` out of its keyword
arguments and binds it for the duration of the original ``forward``, where a hook on the sub-layer computes the fused
term. Nothing stays behind between calls, so checkpointing (which replays ``forward``), two forwards before one
backward, beams and threads see the memory they were called with.
"""

import threading
from functools import partial
from types import MethodType

import torch
from torch import nn

from .fusion_adem_vl import fuse

_FUSED_CLASSES: dict[type, type] = {}
_BOUND = threading.local()  # .visual_memory and .fused: of the layer that this thread is inside


class FusedLayerMixin:
    """Takes ``visual_memory`` (key, value: [B, S, D] each) out of the layer's keyword arguments."""

    def forward(self, hidden_states, *args, visual_memory=None, **kwargs):
        _BOUND.visual_memory, _BOUND.fused = visual_memory, None
        try:
            output = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
            fused = _BOUND.fused
        finally:
            _BOUND.visual_memory = _BOUND.fused = None
        return output if fused is None else _plus(output, fused)

    def __reduce_ex__(self, protocol):
        """Pickled by the class that its own was made from: pickle finds classes by name."""
        own = type(self)
        if _FUSED_CLASSES.get(own.__bases__[-1]) is not own:  # made anew by FSDP, say
            return super().__reduce_ex__(protocol)
        return _empty_layer, (own.__bases__[-1],), vars(self)


def _empty_layer(cls: type) -> nn.Module:
    return nn.Module.__new__(_fused_class(cls))


def _fused_class(cls: type) -> type:
    if cls not in _FUSED_CLASSES:
        _FUSED_CLASSES[cls] = type(cls.__name__, (FusedLayerMixin, cls), {"__module__": __name__})
    return _FUSED_CLASSES[cls]


def _plus(output, fused: torch.Tensor):
    """Attention returns its weights too, and some layers a tuple."""
    return (output[0] + fused, *output[1:]) if isinstance(output, tuple) else output + fused


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
        if isinstance(layer, FusedLayerMixin):
            raise ValueError(f"this {name} already belongs to an ADEM-VL model; load a second copy of it")
    return layers


def decoder_input_scale(language_model: nn.Module) -> float:
    """What the decoder multiplies its input embeddings by: Gemma 1 and 2 did so themselves before Transformers 5."""
    config = language_model.config
    if config.model_type in ("gemma", "gemma2") and not hasattr(language_model.get_input_embeddings(), "embed_scale"):
        return config.hidden_size**0.5
    return 1.0


def computing_device(module: nn.Module) -> torch.device:
    """Where a layer computes: where accelerate brings its weight for each call, or where the weight is."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return torch.device(module.weight.device if device is None else device)


def attach_fusion(language_model: nn.Module, config) -> None:
    """Make every decoder layer add the fused term where ``config.query_from`` and ``config.add_to`` say.

    What leaves the MLP is added to the layer's output rather than to the MLP's own: the same sum in a Llama, and the
    paper's formula still where a family normalises (Gemma, OLMo2), scales (Granite) or drops (Phi-3) the MLP's output
    before the residual sum, or sums attention and MLP in parallel (Phi, Cohere).

    The hooks are partials, not closures, so that ``copy.deepcopy`` ties the copy's hooks to the copy's config.

    Raises:
        ValueError: for the attention's output in a family that rescales it before the residual sum.
    """
    name = type(language_model).__name__
    for layer in decoder_layers(language_model):
        module = layer.mlp if config.add_to.startswith("mlp") else layer.self_attn
        if config.add_to == "attn_out" and (
            hasattr(layer, "post_feedforward_layernorm") or getattr(layer, "residual_multiplier", 1) != 1
        ):
            raise ValueError(
                f"add_to='attn_out': {name} rescales the attention's output before the residual sum, and the fused "
                "term with it; use add_to='mlp_out'"
            )
        layer.__class__ = _fused_class(type(layer))
        if "_old_forward" in vars(layer):  # accelerate, which spreads a model over devices, calls the one it found
            layer._old_forward = MethodType(type(layer).forward, layer)
        if config.add_to.endswith("_in"):
            module.register_forward_pre_hook(partial(_add_to_input, config), with_kwargs=True)
        else:
            hook = _add_to_layer if config.add_to == "mlp_out" else _add_to_output
            module.register_forward_hook(partial(hook, config), with_kwargs=True)
