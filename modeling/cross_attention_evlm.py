"""Gated cross-attention (arXiv 2407.14177, Sec. 3.1 and Fig. 2), and how it gets before a decoder layer.

attention -> tanh gate -> feed-forward -> tanh gate, both gates at zero at the start. Keys and values are bias-free
projections, so that an all-zero visual vector contributes exactly nothing.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from .decoder_adem_vl import SeeingLayer, decoder_layers, extend_layer
from .experts_evlm import FeedForward, MixtureOfExperts
from .precision_adem_vl import InputPrecisionLinear, InputPrecisionRMSNorm


class VisualStates:
    """What the cross-attention layers of one pass attend to.

    Args:
        key, value: [B, L, S, W], split here into the L layers' [B, S, W].
        mask: [B, 1, T, S], True = the position may attend to the slot.
        seen: [B, T], the positions that see an image.

    ``router_logits`` is filled by the layers, [B, T, E] each. No dataclass: FSDP hands its modules copies of those.
    """

    def __init__(self, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, seen: torch.Tensor) -> None:
        # at once: the backward of picking one layer after another would fill a tensor of all layers each time
        self.key, self.value, self.mask, self.seen = key.unbind(1), value.unbind(1), mask, seen
        self.router_logits: list[torch.Tensor] = []


def feed_forward(config) -> FeedForward | MixtureOfExperts:
    """The feed-forward part that a configuration asks for, with weights that are not drawn yet."""
    width = config.text_config.hidden_size
    if config.moe_replicas:
        return MixtureOfExperts(width, config.ffn_dim, config.moe_replicas, config.moe_slices, config.moe_top_k)
    return FeedForward(width, config.ffn_dim)


def _eager(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, heads, T, head_dim]. On a CPU the backward of this is several times faster than the fused attention's."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, heads, T, S]
    return scores.masked_fill(~mask, -torch.inf).float().softmax(-1).to(query.dtype) @ value


class GatedCrossAttention(nn.Module):
    """One layer. K and V of its level are computed by the adapter, once a forward and once a ``generate``.

    Attention is computed as the language model's is: ``"eager"``, or fused.
    """

    def __init__(self, config) -> None:
        super().__init__()
        width, inner = config.text_config.hidden_size, config.cross_attention_dim
        self.head_dim, self.text_config = config.cross_attention_head_dim, config.text_config
        self.attn_norm = InputPrecisionRMSNorm(width)
        self.q_proj = InputPrecisionLinear(width, inner, bias=False)
        self.k_proj = InputPrecisionLinear(config.visual_width, inner, bias=False)
        self.v_proj = InputPrecisionLinear(config.visual_width, inner, bias=False)
        self.o_proj = InputPrecisionLinear(inner, width, bias=False)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ffn_norm = InputPrecisionRMSNorm(width)
        self.ffn = feed_forward(config)
        self.ffn_gate = nn.Parameter(torch.zeros(1))

    def reset(self) -> None:
        """Xavier matrices, gates at zero."""
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
            nn.init.xavier_uniform_(linear.weight)
        for norm in (self.attn_norm, self.ffn_norm):
            nn.init.ones_(norm.weight)
        for gate in (self.attn_gate, self.ffn_gate):
            nn.init.zeros_(gate)
        self.ffn.reset()

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, heads, positions, head_dim]

    def forward(self, hidden_states: torch.Tensor, states: VisualStates, index: int) -> torch.Tensor:
        """[B, T, D] in and out; positions that see no image come out as they went in, bit for bit."""
        like, device = hidden_states.dtype, hidden_states.device
        key, value = (x[index].to(device, like) for x in (states.key, states.value))  # [B, S, W]
        query = self.q_proj(self.attn_norm(hidden_states))  # [B, T, W]
        attend = _eager if self.text_config._attn_implementation == "eager" else F.scaled_dot_product_attention
        mixed = attend(self._heads(query), self._heads(key), self._heads(value), states.mask.to(device))
        mixed = self.o_proj(mixed.transpose(1, 2).flatten(2))  # [B, T, D]
        out = hidden_states + self.attn_gate.tanh().to(like) * mixed
        y = self.ffn(self.ffn_norm(out))
        if isinstance(y, tuple):
            y, logits = y
            states.router_logits.append(logits)
        out = out + self.ffn_gate.tanh().to(like) * y
        return torch.where(states.seen.to(device)[..., None], out, hidden_states)


class CrossAttendingLayerMixin(SeeingLayer):
    """Takes ``visual_states`` out of the layer's keyword arguments and attends to them first."""

    _cross_attend: Callable[[torch.Tensor, VisualStates], torch.Tensor] | None

    def forward(self, hidden_states, *args, visual_states=None, **kwargs):
        if visual_states is not None and self._cross_attend is not None:
            hidden_states = self._cross_attend(hidden_states, visual_states)
        return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]


def _cross_attend(owner: nn.Module, index: int, hidden_states: torch.Tensor, states: VisualStates) -> torch.Tensor:
    return owner.adapter.cross_attention[index](hidden_states, states, index)


def attach_cross_attention(language_model: nn.Module, owner: nn.Module, interval: int) -> None:
    """Let every ``interval``-th decoder layer attend first, with the layers of ``owner.adapter``.

    They are looked up there at each call: PEFT's ``modules_to_save`` puts a copy there to train. A partial, not a
    closure, so that ``copy.deepcopy`` ties the copy's layers to the copy.
    """
    for number, layer in enumerate(decoder_layers(language_model)):
        extend_layer(layer, CrossAttendingLayerMixin)
        attends = number % interval == 0
        layer._cross_attend = partial(_cross_attend, owner, number // interval) if attends else None
