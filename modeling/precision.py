"""Layers whose weights are float32 beside frozen bases of lower precision, as under the authors' autocast."""

import torch
from torch import nn
from torch.nn import functional as F


class InputPrecisionLinear(nn.Linear):
    """Computes in its input's precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class InputPrecisionRMSNorm(nn.Module):
    """RMSNorm that computes in float32 and returns its input's precision."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
