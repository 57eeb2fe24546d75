"""Gated cross-attention (arXiv 2407.14177, Sec. 3.1 and Fig. 2), and how it gets before a decoder layer.

attention -> tanh gate -> feed-forward -> tanh gate, both gates at zero at the start. Keys and values are bias-free
projections, so that an all-zero visual vector contributes exactly nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from .configuration_evlm import EvlmConfig
from .decoder import SeeingLayer, decoder_layers, extend_layer
from .visual_memory import VisualMemory

EPS = 1e-6  # added to the mean square in RMSNorm


# the weights that a call of ``generate`` has cast, with their copies; a weight that is freed frees its copy
_COPIES: ContextVar[WeakTensorKeyDictionary | None] = ContextVar("_COPIES", default=None)


@contextmanager
def casts_kept() -> Iterator[None]:
    """Cast each weight once within this context, and not for every token. The copies are freed at its end."""
    token = _COPIES.set(WeakTensorKeyDictionary())
    try:
        yield
    finally:
        _COPIES.reset(token)


def cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a weight in the precision that a layer computes in.

    Args:
        weight (torch.Tensor): the weight.
        dtype (torch.dtype): the precision.

    Returns:
        The weight itself, or a copy.
    """
    copies = None if torch.compiler.is_compiling() or torch.is_grad_enabled() else _COPIES.get()
    if copies is None or weight.dtype == dtype:
        return weight.to(dtype)
    copy = copies.get(weight)
    if copy is None or copy.dtype != dtype:
        copy = copies[weight] = weight.to(dtype)
    return copy


class InputPrecisionLinear(nn.Linear):
    """Linear layer that computes in its input's precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, cast(self.weight, x.dtype))


class InputPrecisionRMSNorm(nn.RMSNorm):
    """RMSNorm that computes in float32 and returns its input's precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), self.normalized_shape, self.weight.float(), EPS).to(x.dtype)


class FeedForward(nn.Module):
    """Linear(D, F) -> GELU -> Linear(F, D), without biases (Eq. 2 counts two matrices).

    Args:
        width (int): D, width of the language model.
        hidden (int): F, width between the two matrices.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = InputPrecisionLinear(width, hidden, bias=False)
        self.fc2 = InputPrecisionLinear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def reset(self) -> None:
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)


class MixtureOfExperts(nn.Module):
    """``world(x) + tanh(gate) * sum of the k experts with the largest router probability``.

    The k probabilities are normalised to add up to m, the number of slices: the m slices of one copy with equal weights
    are then one whole feed-forward part.

    Args:
        width (int): D, width of the language model.
        hidden (int): F, width of a dense feed-forward part.
        replicas (int): n, copies of the dense part.
        slices (int): m, experts that a copy is cut into.
        top_k (int): k, experts that each position uses.
    """

    def __init__(self, width: int, hidden: int, replicas: int, slices: int, top_k: int) -> None:
        super().__init__()
        self.slices, self.top_k = slices, top_k
        experts = replicas * slices
        self.world = FeedForward(width, hidden)
        self.router = InputPrecisionLinear(width, experts, bias=False)  # in float32, in whatever it is stored
        self.fc1 = nn.Parameter(torch.empty(experts, hidden // slices, width))
        self.fc2 = nn.Parameter(torch.empty(experts, hidden // slices, width))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the expert that is always on, and the k experts that the router picks.

        Args:
            x (torch.Tensor): [B, T, D].

        Returns:
            [B, T, D], and the router's logits [B, T, E].
        """
        flat = x.reshape(-1, x.shape[-1])  # [P, D]
        logits = self.router(flat.float())  # [P, E]
        chosen = logits.softmax(-1).topk(self.top_k)  # [P, k]
        weights = self.slices * chosen.values / chosen.values.sum(-1, keepdim=True)
        weights = torch.zeros_like(logits).scatter(-1, chosen.indices, weights).to(x.dtype)  # [P, E]
        # all experts in one product, and nothing of those that were not chosen: for experts this narrow one large
        # product is faster than many small ones
        hidden = F.gelu(F.linear(flat, cast(self.fc1, x.dtype).flatten(0, 1))).unflatten(-1, (len(self.fc1), -1))
        routed = (hidden * weights[..., None]).flatten(1) @ cast(self.fc2, x.dtype).flatten(0, 1)  # [P, D]
        out = self.world(x) + self.gate.tanh().to(x.dtype) * routed.view_as(x)
        return out, logits.view(*x.shape[:-1], -1)

    def reset(self) -> None:
        self.world.reset()
        nn.init.normal_(self.router.weight, std=0.02)
        for weights in (self.fc1, self.fc2):
            if getattr(weights, "_is_hf_initialized", False):  # read from a checkpoint; the library guards no views
                continue
            for expert in weights:
                nn.init.xavier_uniform_(expert)
        nn.init.zeros_(self.gate)

    @torch.no_grad()
    def upcycle(self, dense: FeedForward) -> None:
        """Start from a trained dense part: the same function, with experts that are its slices.

        Args:
            dense (FeedForward): the trained dense part.
        """
        self.reset()
        self.world.load_state_dict(dense.state_dict())
        replicas = len(self.fc1) // self.slices
        self.fc1.copy_(torch.stack(dense.fc1.weight.chunk(self.slices, dim=0)).repeat(replicas, 1, 1))
        self.fc2.copy_(torch.stack(dense.fc2.weight.T.chunk(self.slices, dim=0)).repeat(replicas, 1, 1))


def balance(logits: torch.Tensor, seen: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure how evenly the positions that see an image use the experts.

    Args:
        logits (torch.Tensor): [B, T, E], the router's.
        seen (torch.Tensor): [B, T] bool, positions that see an image.
        top_k (int): k, experts that each position uses.

    Returns:
        The load-balancing loss, E * sum over the experts of (share of the choices) * (mean probability), 1 where all
        are used alike (Eqs. 4-6 of the Switch Transformer, arXiv 2101.03961); and the share of the choices that fell on
        each expert, [E].
    """
    logits = logits[seen]  # [P, E]
    positions = max(1, len(logits))
    chosen = logits.detach().topk(top_k).indices  # [P, k]
    load = torch.zeros_like(logits).scatter(-1, chosen, 1.0).sum(0) / (top_k * positions)
    probability = logits.softmax(-1).sum(0) / positions
    return logits.shape[-1] * (load * probability).sum(), load


def feed_forward(config: EvlmConfig) -> FeedForward | MixtureOfExperts:
    """Build the feed-forward part that a configuration asks for, with weights that are not drawn yet.

    Args:
        config (EvlmConfig): the configuration.
    """
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

    Args:
        config (EvlmConfig): the configuration.
    """

    def __init__(self, config: EvlmConfig) -> None:
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

    def keys_and_values(self, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Project the features of a level, in their own precision.

        Args:
            level (torch.Tensor): [I, 1+N, C], the tower's features of this layer's level.

        Returns:
            Keys and values, [I, 1+N, W] each.
        """
        return self.k_proj(level), self.v_proj(level)

    def forward(self, hidden_states: torch.Tensor, memory: VisualMemory, index: int) -> torch.Tensor:
        """Attend to the images, then apply the feed-forward part, each behind its gate.

        Args:
            hidden_states (torch.Tensor): [B, T, D].
            memory (VisualMemory): key and value of all layers, [B, S, W] each, and a ``SlotVisibility``.
            index (int): the number of this layer.

        Returns:
            [B, T, D]; positions that see no image come out as they went in, bit for bit.
        """
        like, device, visible = hidden_states.dtype, hidden_states.device, memory.slots
        key, value = (x[index].to(device, like) for x in (memory.key, memory.value))  # [B, S, W]
        query = self.q_proj(self.attn_norm(hidden_states))  # [B, T, W]
        attend = _eager if self.text_config._attn_implementation == "eager" else F.scaled_dot_product_attention
        mixed = attend(self._heads(query), self._heads(key), self._heads(value), visible.mask.to(device))
        mixed = self.o_proj(mixed.transpose(1, 2).flatten(2))  # [B, T, D]
        out = hidden_states + self.attn_gate.tanh().to(like) * mixed
        y = self.ffn(self.ffn_norm(out))
        if isinstance(y, tuple):
            y, logits = y
            visible.router_logits.append(logits)
        out = out + self.ffn_gate.tanh().to(like) * y
        return torch.where(visible.seen.to(device)[..., None], out, hidden_states)


class CrossAttendingLayerMixin(SeeingLayer):
    """Decoder layer that takes ``visual_memory`` out of its arguments and attends to it first."""

    _cross_attend: Callable[[torch.Tensor, VisualMemory], torch.Tensor] | None

    def forward(self, hidden_states, *args, visual_memory=None, **kwargs):
        if visual_memory is not None and self._cross_attend is not None:
            hidden_states = self._cross_attend(hidden_states, visual_memory)
        return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]


def _cross_attend(owner: nn.Module, index: int, hidden_states: torch.Tensor, memory: VisualMemory) -> torch.Tensor:
    return owner.adapter.cross_attention[index](hidden_states, memory, index)


def attach_cross_attention(language_model: nn.Module, owner: nn.Module, interval: int) -> None:
    """Let every ``interval``-th decoder layer attend first, with the layers of ``owner.adapter``.

    They are looked up there at each call: PEFT's ``modules_to_save`` puts a copy there to train. A partial, not a
    closure, so that ``copy.deepcopy`` ties the copy's layers to the copy.

    Args:
        language_model (nn.Module): a causal LM.
        owner (nn.Module): the model that has the adapter.
        interval (int): n.
    """
    for number, layer in enumerate(decoder_layers(language_model)):
        extend_layer(layer, CrossAttendingLayerMixin)
        attends = number % interval == 0
        layer._cross_attend = partial(_cross_attend, owner, number // interval) if attends else None
