"""Everything of EVLM that trains = everything that is saved (but tower blocks that are set free).

Shapes: B batch, I images, n images a row (at most), k levels, L cross-attention layers, S visual slots, C width of the
tower, W width of the cross-attention, D width of the language model, m media tokens an image.
"""

import torch
from torch import nn

from .cross_attention import GatedCrossAttention, feed_forward
from .image_inputs import frame_embeds, spread
from .visibility import ALWAYS, NOTHING


class LevelNorm(nn.LayerNorm):
    """Takes a tower's features in whatever precision they come, and normalises in its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype))


class EvlmAdapter(nn.Module):
    """Cross-attention layers, media tokens, a norm for each level, frame embeddings."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        width = config.vision_config.hidden_size
        # a tower's hidden states grow from block to block; the norms bring its levels to one scale
        self.level_norms = nn.ModuleList(LevelNorm(width) for _ in config.vision_feature_layer)
        self.cross_attention = nn.ModuleList(
            GatedCrossAttention(config) for _ in range(config.num_cross_attention_layers)
        )
        if config.media_tokens:
            self.media_tokens = nn.Parameter(torch.empty(config.media_tokens, config.text_config.hidden_size))
        if config.frame_embeddings:
            self.frame_embedding = nn.Parameter(torch.empty(config.frame_embeddings, width))

    @torch.no_grad()
    def reset(self) -> None:
        """Gates and frame embeddings at zero, media tokens N(0, 0.02^2), matrices Xavier."""
        for norm in self.level_norms:
            norm.reset_parameters()
        for layer in self.cross_attention:
            layer.reset()
        if self.config.media_tokens:
            nn.init.normal_(self.media_tokens, std=0.02)
        if self.config.frame_embeddings:
            nn.init.zeros_(self.frame_embedding)

    def upcycle(self) -> None:
        """Replace every dense feed-forward part by the mixture of experts that the configuration now asks for."""
        for layer in self.cross_attention:
            dense = layer.ffn
            layer.ffn = feed_forward(self.config).to(dense.fc1.weight.device)
            layer.ffn.upcycle(dense)

    def forward(
        self, features: torch.Tensor, image_mask: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """What the text reads of the images; the layers' keys and values among it, computed once.

        Args:
            features: [I, k, 1+N, C], the levels of the I images. image_mask: [B, n] the places of the images in the
                rows; None = each row has as many. batch: B.

        Returns:
            key and value [B, L, S, W]; slots [B, S], the image that each slot belongs to; the media tokens' embeddings
            [B, n, m, D] or None.

        Raises:
            ValueError: more images in a row than frame embeddings.
        """
        config = self.config
        levels = [norm(features[:, i]) for i, norm in enumerate(self.level_norms)]  # [I, 1+N, C] each
        if config.frame_embeddings:
            frames = frame_embeds(self.frame_embedding, image_mask, len(features), batch)  # [I, 1, C]
            levels = [level + frames for level in levels]
        if config.level_fusion == "concatenate":
            levels = [torch.cat(levels, dim=-1)]  # [I, 1+N, k * C]
        layers = list(zip(self.cross_attention, config.level_map, strict=True))
        key = torch.stack([layer.k_proj(levels[level]) for layer, level in layers], dim=1)  # [I, L, 1+N, W]
        value = torch.stack([layer.v_proj(levels[level]) for layer, level in layers], dim=1)
        key, value = (self._slots(x, image_mask, batch) for x in (key, value))
        slots = self._slot_numbers(image_mask, batch, len(features), features.shape[2], key.device)
        embeds = None
        if config.media_tokens:
            number = len(features) // batch if image_mask is None else image_mask.shape[1]
            embeds = self.media_tokens.expand(batch, number, -1, -1)
        return key, value, slots, embeds

    def _slots(self, x: torch.Tensor, image_mask: torch.Tensor | None, batch: int) -> torch.Tensor:
        """[I, L, 1+N, W] -> [B, L, S, W]: the images of a row one after another, then the zero vectors."""
        x = spread(x, image_mask, batch).transpose(1, 2).flatten(2, 3)
        zeros = x.new_zeros(*x.shape[:2], self.config.zero_vectors, x.shape[3])
        return torch.cat([x, zeros], dim=2)

    def _slot_numbers(self, image_mask, batch: int, images: int, tokens: int, device) -> torch.Tensor:
        number = images // batch if image_mask is None else image_mask.shape[1]
        slots = torch.arange(number, device=device).expand(batch, -1)  # [B, n]
        if image_mask is not None:
            slots = torch.where(image_mask.to(device), slots, NOTHING)
        slots = slots.repeat_interleave(tokens, dim=1)
        return torch.cat([slots, slots.new_full((batch, self.config.zero_vectors), ALWAYS)], dim=1)


def count_parameters(config) -> int:
    """Trained numbers of a configuration, without those of tower blocks that are set free."""
    with torch.device("meta"):
        return sum(p.numel() for p in EvlmAdapter(config).parameters())
