"""Every trained tensor of ADEM-VL (arXiv 2410.17779, Sec. III), and the visual memory that is computed of them.

Shapes: B batch, I images, n images a row (at most), S memory slots an image, m input embeddings an image, N patches,
D width of the language model, C of the tower, G side of the grid.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_adem_vl import AdemVLConfig
from .fusion import kernel_map
from .image_inputs import ImageRows
from .vision import VisionAdapter
from .visual_memory import VisualMemory


def pool_scales(patches: torch.Tensor, counts: list[int], pooling: str = "avg") -> torch.Tensor:
    """Pool the patch grid to each scale of the multiscale visual prompt, one after another.

    Args:
        patches (torch.Tensor): [B, G*G, C], row by row.
        counts (list[int]): tokens per scale, each a square of at most G*G.
        pooling (str): ``"avg"`` or ``"max"``.

    Returns:
        [B, sum(counts), C].
    """
    batch, number, width = patches.shape
    side = math.isqrt(number)
    grid = patches.transpose(1, 2).reshape(batch, width, side, side)  # [B, C, G, G]
    pool = F.adaptive_avg_pool2d if pooling == "avg" else F.adaptive_max_pool2d
    scales = [
        patches if count == number else pool(grid, math.isqrt(count)).flatten(2).transpose(1, 2) for count in counts
    ]
    return torch.cat(scales, dim=1)


class LowRankProjector(nn.Module):
    """Linear(C, r) -> SiLU -> Linear(r, D).

    Args:
        in_features (int): C, width of what comes in.
        hidden (int): r, the rank.
        out_features (int): D, width of what goes out.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class AdemVLAdapter(nn.Module):
    """Hold everything that trains, which is everything that is saved, and compute the visual memory of it.

    Args:
        config (AdemVLConfig): the configuration.
    """

    def __init__(self, config: AdemVLConfig) -> None:
        super().__init__()
        self.config = config
        text_width, vision_width = config.text_config.hidden_size, config.vision_config.hidden_size
        self.key_embedding = nn.Parameter(torch.empty(1, config.memory_size, text_width))
        self.value_embedding = nn.Parameter(torch.empty(1, config.memory_size, text_width))
        self.visual_projector = LowRankProjector(vision_width, config.projector_dim, text_width)
        if config.frame_embeddings:
            self.frame_embedding = nn.Parameter(torch.empty(config.frame_embeddings, text_width))
        if config.use_cls_token:
            self.cls_projector = LowRankProjector(vision_width, config.projector_dim, text_width)
        if config.vision_adapter_dim:
            self.vision_adapters = nn.ModuleList(
                VisionAdapter(vision_width, config.vision_adapter_dim, config.vision_adapter_dropout)
                for _ in range(config.num_vision_adapters)
            )

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise as the authors do: E_key ~ N(0, 0.02^2), E_value = 0, projectors Xavier, tower adapters silent."""
        nn.init.normal_(self.key_embedding, std=0.02)
        nn.init.zeros_(self.value_embedding)
        if self.config.frame_embeddings:
            nn.init.zeros_(self.frame_embedding)
        for part in self.modules():
            if isinstance(part, LowRankProjector):
                for linear in (part.fc1, part.fc2):
                    nn.init.xavier_uniform_(linear.weight)
                    nn.init.zeros_(linear.bias)
            elif isinstance(part, VisionAdapter):
                part.reset()

    def forward(self, features: torch.Tensor | None, rows: ImageRows) -> VisualMemory:
        """Compute the memory that every layer attends to.

        One call of this module, because ZeRO-3 has a module's tensors at hand only while the module is called.

        Args:
            features (torch.Tensor | None): [I, 1+N, C], the tower's features of the I images, class token first, in any
                precision; None where there is no image.
            rows (ImageRows): the rows that the images belong to.

        Returns:
            Key and value [B, n*S, D], slots [B, n*S] or None, embeds [B, n, m, D] or None, prompt [B, n*S, D] or None.
        """
        if features is None:
            return self.memory(None, rows)
        features = features.to(self.key_embedding.dtype)
        prompt, embeds = rows.spread(self.visual_prompt(features, rows), self.image_embeds(features))
        return self.memory(prompt, rows)._replace(embeds=embeds)

    def visual_prompt(self, features: torch.Tensor, rows: ImageRows) -> torch.Tensor:
        """Project the patches, pooled to each scale: V = beta * P(pool(patches)).

        Args:
            features (torch.Tensor): [I, 1+N, C].
            rows (ImageRows): the rows that the images belong to.

        Returns:
            [I, S, D].
        """
        config = self.config
        patches = pool_scales(features[:, 1:], config.visual_token_counts, config.pooling)  # [I, S, C]
        visual = config.visual_scale * self.visual_projector(patches)  # [I, S, D]
        if config.frame_embeddings:
            visual = visual + rows.frame_embeds(self.frame_embedding, len(features))
        return visual

    def image_embeds(self, features: torch.Tensor) -> torch.Tensor | None:
        """Project the input embeddings of the images: the class token, then the pooled patches (without beta).

        Args:
            features (torch.Tensor): [I, 1+N, C].

        Returns:
            [I, m, D], or None where images have none.
        """
        config, parts = self.config, []
        if config.use_cls_token:
            parts.append(self.cls_projector(features[:, :1]))  # [I, 1, D]
        if config.input_visual_tokens:
            pooled = pool_scales(features[:, 1:], [config.input_visual_tokens], config.pooling)
            parts.append(self.visual_projector(pooled))
        return torch.cat(parts, dim=1) if parts else None

    def memory(self, prompt: torch.Tensor | None, rows: ImageRows) -> VisualMemory:
        """Compute key = phi(V + E_key) and value = alpha / n * (V + E_value), once for all layers and steps.

        The fused term is a sum over slots that nothing normalises. Dividing by a row's n images makes it their mean, of
        the size that was learned with one image. A row without an image has V = 0 in the slots of one image: a learned
        text memory.

        Args:
            prompt (torch.Tensor | None): V, [B, n, S, D]; None where there is no image.
            rows (ImageRows): the rows that the images belong to.

        Returns:
            Key and value [B, n*S, D]; slots [B, n*S], those that exist (None = all); prompt [B, n*S, D] or None.
        """
        config, slots = self.config, None
        key, value = self.key_embedding, self.value_embedding  # [1, S, D]
        if prompt is not None:
            key, value = prompt + key, prompt + value
            share: float | torch.Tensor = 1 / prompt.shape[1]
            if rows.mask is not None and rows.mask.shape[1] > 1:
                first = torch.zeros(1, dtype=torch.long, device=rows.mask.device)
                there = rows.mask.index_fill(1, first, True)  # [B, n]
                if torch.compiler.is_compiling() or not there.all():
                    share = (there / there.sum(1, keepdim=True)).to(value)[:, :, None, None]  # [B, n, 1, 1]
                    slots = there.repeat_interleave(prompt.shape[2], dim=1)  # [B, n*S]
            key, value, prompt = key.flatten(1, 2), (share * value).flatten(1, 2), prompt.flatten(1, 2)
        key = kernel_map(key, config.kernel)
        # the same tensor, laid out as the product with its transpose reads it, in every layer and step
        key = key.mT.contiguous().mT.expand(rows.batch, -1, -1)
        value = (config.fusion_scale * value).expand(rows.batch, -1, -1)
        return VisualMemory(key, value, slots, prompt=prompt)
