"""Everything of EVLM that trains and is saved, except tower blocks that train where they stand.

Shapes: B batch, I images, n images a row (at most), k levels, L cross-attention layers, S visual slots, C width of the
tower, W width of the cross-attention, D width of the language model, m media tokens an image.
"""

import torch
from torch import nn

from .configuration_evlm import EvlmConfig
from .cross_attention import GatedCrossAttention, feed_forward
from .image_inputs import ImageRows
from .visibility import ALWAYS, NOTHING
from .visual_memory import VisualMemory


class LevelNorm(nn.LayerNorm):
    """LayerNorm that takes a tower's features in any precision and normalises in its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.to(self.weight.dtype))


class EvlmAdapter(nn.Module):
    """Cross-attention layers, media tokens, a norm for each level, frame embeddings.

    Args:
        config (EvlmConfig): the configuration.
    """

    def __init__(self, config: EvlmConfig) -> None:
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
        """Set gates and frame embeddings to zero, media tokens N(0, 0.02^2), matrices Xavier."""
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

    def forward(self, features: torch.Tensor, rows: ImageRows) -> VisualMemory:
        """Compute what the text reads of the images, the keys and values of all layers among it.

        Args:
            features (torch.Tensor): [I, k, 1+N, C], the levels of the I images.
            rows (ImageRows): the rows that the images belong to.

        Returns:
            Key and value [B, L, S, W]; slots [B, S], the image that each slot belongs to; embeds [B, n, m, D], the
            media tokens, or None.

        Raises:
            ValueError: more images in a row than frame embeddings.
        """
        config = self.config
        levels = [norm(features[:, i]) for i, norm in enumerate(self.level_norms)]  # [I, 1+N, C] each
        if config.frame_embeddings:
            frames = rows.frame_embeds(self.frame_embedding, len(features))  # [I, 1, C]
            levels = [level + frames for level in levels]
        if config.level_fusion == "concatenate":
            levels = [torch.cat(levels, dim=-1)]  # [I, 1+N, k * C]
        pairs = [
            layer.keys_and_values(levels[level])
            for layer, level in zip(self.cross_attention, config.level_map, strict=True)
        ]
        key, value = rows.spread(
            *(torch.stack(parts, dim=1) for parts in zip(*pairs, strict=True))
        )  # [B, n, L, 1+N, W]
        number, tokens = key.shape[1], key.shape[3]
        embeds = None
        if config.media_tokens:
            embeds = self.media_tokens.expand(rows.batch, number, -1, -1)
        slots = self._slot_numbers(rows, number, tokens, key.device)
        return VisualMemory(self._behind_one_another(key), self._behind_one_another(value), slots, embeds)

    def _behind_one_another(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n, L, 1+N, W] -> [B, L, S, W]: the images of a row one after another, then the zero vectors."""
        x = x.transpose(1, 2).flatten(2, 3)
        zeros = x.new_zeros(*x.shape[:2], self.config.zero_vectors, x.shape[3])
        return torch.cat([x, zeros], dim=2)

    def _slot_numbers(self, rows: ImageRows, number: int, tokens: int, device) -> torch.Tensor:
        slots = torch.arange(number, device=device).expand(rows.batch, -1)  # [B, n]
        if rows.mask is not None:
            slots = torch.where(rows.mask.to(device), slots, NOTHING)
        slots = slots.repeat_interleave(tokens, dim=1)
        return torch.cat([slots, slots.new_full((rows.batch, self.config.zero_vectors), ALWAYS)], dim=1)
