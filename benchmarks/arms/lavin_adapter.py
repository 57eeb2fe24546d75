"""Everything of LaVIN (arXiv 2305.15023) that trains: routed adapters, projector, modality embeddings.

Shapes: B batch, T text positions, I images, k class tokens an image, C width of the tower, D of the language model.
"""

import torch
from torch import nn
from torch.nn import functional as F

from adem_vl_hf.modeling.adapter_adem_vl import LowRankProjector
from adem_vl_hf.modeling.image_inputs import ImageRows


class RoutedAdapter(nn.Module):
    """``z + w0 B(Az) + w1 D(Az)``; B and D are added up before they are applied."""

    def __init__(self, width: int, config) -> None:
        super().__init__()
        self.temperature, self.dropout = config.routing_temperature, config.adapter_dropout
        hidden = config.adapter_dim
        self.down = nn.Linear(width, hidden)
        self.up = nn.Parameter(torch.empty(2, 2, hidden // 2, width // 2))  # [expert, group, in, out]
        self.up_bias = nn.Parameter(torch.empty(2, width))
        self.router = nn.Linear(width, 2)

    def reset(self) -> None:
        """A Xavier, B and D zero."""
        nn.init.xavier_uniform_(self.down.weight)
        for zero in (self.down.bias, self.up, self.up_bias):
            nn.init.zeros_(zero)
        self.router.reset_parameters()

    def route(self, token: torch.Tensor) -> torch.Tensor:
        """w [B, 2] from [B, D]."""
        return F.softmax(self.router(token.to(self.router.weight.dtype)) / self.temperature, dim=-1)

    def forward(self, z: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """[B, T, D] in and out; weights [B, 2]."""
        low = F.linear(z, self.down.weight.to(z.dtype), self.down.bias.to(z.dtype))
        low = F.dropout(low, self.dropout, self.training).unflatten(-1, (2, -1))  # [B, T, groups, in]
        up = torch.einsum("be,egio->bgio", weights, self.up).to(z.dtype)
        added = torch.einsum("btgi,bgio->btgo", low, up).flatten(2)  # [B, T, D]
        return z + added + (weights @ self.up_bias).to(z.dtype)[:, None]


class LavinAdapter(nn.Module):
    """Everything that trains."""

    def __init__(self, config) -> None:
        super().__init__()
        text, vision = config.text_config, config.vision_config
        self.modality = nn.Parameter(torch.empty(2, text.hidden_size))  # without an image, with one
        self.projector = LowRankProjector(vision.hidden_size, config.projector_dim, text.hidden_size)
        self.text_adapters = nn.ModuleList(
            RoutedAdapter(text.hidden_size, config) for _ in range(text.num_hidden_layers)
        )
        live = max(config.vision_feature_layer)
        self.vision_adapters = nn.ModuleList(RoutedAdapter(vision.hidden_size, config) for _ in range(live))

    @torch.no_grad()
    def reset(self) -> None:
        """Adapters silent, projector Xavier, modality N(0, 1) as of an embedding."""
        nn.init.normal_(self.modality)
        for linear in (self.projector.fc1, self.projector.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for adapter in (*self.text_adapters, *self.vision_adapters):
            adapter.reset()

    def forward(self, features: torch.Tensor | None, rows: ImageRows) -> torch.Tensor:
        """Input embeddings [B, 1+k, D] of features [I, k, C]: the modality, then the image's (zero without one)."""
        if features is None:
            return self.modality[:1].expand(rows.batch, 1, -1)
        (tokens,) = rows.spread(self.projector(features.to(self.modality.dtype)))  # [B, n, k, D]
        tokens = tokens.flatten(1, 2)  # [B, k, D]: one image a row
        has_image = torch.ones(rows.batch, dtype=torch.long, device=tokens.device)
        if rows.mask is not None:
            has_image = rows.mask.any(1).long().to(tokens.device)
        return torch.cat([self.modality[has_image][:, None], tokens], dim=1)
