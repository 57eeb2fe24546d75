"""The feed-forward part of EVLM's cross-attention layers: dense, or a mixture of fine-grained experts.

The mixture (arXiv 2407.14177, Sec. 3.3 and Fig. 4): n copies of the dense part, each cut into m slices, make n * m
experts, of which a router picks k for each position; one more expert, as wide as the dense part, is always on.
What the paper leaves open is chosen so that a mixture made from a trained dense part computes the same at first: the
always-on expert is the dense part, and what is routed is added through a tanh gate that starts at zero.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .precision_adem_vl import InputPrecisionLinear


class FeedForward(nn.Module):
    """Linear(D, F) -> GELU -> Linear(F, D), without biases (Eq. 2 counts two matrices)."""

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
    """

    def __init__(self, width: int, hidden: int, replicas: int, slices: int, top_k: int) -> None:
        super().__init__()
        self.slices, self.top_k = slices, top_k
        experts = replicas * slices
        self.world = FeedForward(width, hidden)
        self.router = nn.Linear(width, experts, bias=False)
        self.fc1 = nn.Parameter(torch.empty(experts, hidden // slices, width))
        self.fc2 = nn.Parameter(torch.empty(experts, hidden // slices, width))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, T, D] in; the same shape and the router's logits [B, T, E] out."""
        flat = x.reshape(-1, x.shape[-1])  # [P, D]
        logits = self.router(flat.float())  # [P, E]
        chosen = logits.softmax(-1).topk(self.top_k)  # [P, k]
        weights = self.slices * chosen.values / chosen.values.sum(-1, keepdim=True)
        weights = torch.zeros_like(logits).scatter(-1, chosen.indices, weights).to(x.dtype)  # [P, E]
        # all experts in one product, and nothing of those that were not chosen: for experts this narrow one large
        # product is faster than many small ones
        hidden = F.gelu(F.linear(flat, self.fc1.to(x.dtype).flatten(0, 1))).unflatten(-1, (len(self.fc1), -1))
        routed = (hidden * weights[..., None]).flatten(1) @ self.fc2.to(x.dtype).flatten(0, 1)  # [P, D]
        out = self.world(x) + self.gate.tanh().to(x.dtype) * routed.view_as(x)
        return out, logits.view(*x.shape[:-1], -1)

    def reset(self) -> None:
        self.world.reset()
        nn.init.normal_(self.router.weight, std=0.02)
        for weights in (self.fc1, self.fc2):
            for expert in weights:
                nn.init.xavier_uniform_(expert)
        nn.init.zeros_(self.gate)

    @torch.no_grad()
    def upcycle(self, dense: FeedForward) -> None:
        """Start from a trained dense part: same function, experts that are its slices."""
        self.reset()
        self.world.load_state_dict(dense.state_dict())
        replicas = len(self.fc1) // self.slices
        self.fc1.copy_(torch.stack(dense.fc1.weight.chunk(self.slices, dim=0)).repeat(replicas, 1, 1))
        self.fc2.copy_(torch.stack(dense.fc2.weight.T.chunk(self.slices, dim=0)).repeat(replicas, 1, 1))


def balance(logits: torch.Tensor, seen: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How evenly the experts are used by the positions [B, T] that see an image.

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
