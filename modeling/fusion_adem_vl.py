"""The mathematics of ADEM-VL (arXiv 2410.17779, Sec. III and Algorithm 1) and all of its trained tensors.

Shapes: B batch, T text positions, S memory slots, D width of the language model, C of the tower, G side of the grid.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def kernel_map(x: torch.Tensor, kernel: str) -> torch.Tensor:
    """The feature map of the parameter-free cross-attention (Table "kernel map"), over the last dimension."""
    if kernel == "silu":
        return F.silu(x)
    if kernel == "none":
        return x
    if kernel == "softmax":
        return x.softmax(-1)
    if kernel == "relu":
        return F.relu(x)
    if kernel == "elu":
        return F.elu(x)
    if kernel == "silu-min":  # as the table prints it: silu(x) - min(x)
        return F.silu(x) - x.amin(-1, keepdim=True)
    raise ValueError(f"unknown kernel {kernel!r}")


def pool_scales(patches: torch.Tensor, counts: list[int], pooling: str = "avg") -> torch.Tensor:
    """The multiscale visual prompt: the patch grid pooled to each scale, one after another.

    Args:
        patches: [B, G*G, C], row by row.
        counts: tokens per scale, each a square of at most G*G.
        pooling: ``"avg"`` or ``"max"``.

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


@torch.no_grad()
def drop_mask(scores: torch.Tensor, drop_ratio: float) -> torch.Tensor | None:
    """Which scores [..., S] adaptive fusion drops, bool, or None where the ratio drops none.

    Those strictly below the ``int(drop_ratio * S)``-th of each row in ascending order. The ranking is signed (the most
    negative go first), joint over all scales, and carries no gradient.
    """
    dropped = int(drop_ratio * scores.shape[-1])
    if dropped == 0:
        return None
    # the largest of the dropped + 1 smallest: selecting is several times faster than sorting
    return scores < scores.topk(dropped + 1, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)


def adaptive_drop(scores: torch.Tensor, drop_ratio: float) -> torch.Tensor:
    """Adaptive fusion: the scores [..., S] with those that ``drop_mask`` names set to zero."""
    mask = drop_mask(scores, drop_ratio)
    return scores if mask is None else scores.masked_fill(mask, 0.0)


def fuse(
    hidden_states: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kernel: str, drop_ratio: float
) -> torch.Tensor:
    """Parameter-free cross-attention: ``drop(phi(h) @ key^T) @ value``; no projection, no softmax, no normalisation.

    Args:
        hidden_states: [B, T, D].
        key: phi(V + E_key), [B, S, D]. value: alpha * (V + E_value), [B, S, D].
    """
    scores = kernel_map(hidden_states, kernel) @ key.transpose(1, 2)  # [B, T, S]
    return adaptive_drop(scores, drop_ratio) @ value  # [B, T, D]


class LowRankProjector(nn.Module):
    """Linear(C, r) -> SiLU -> Linear(r, D)."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class InputPrecisionLinear(nn.Linear):
    """Computes in its input's precision: float32 weights beside a bfloat16 tower, as under the authors' autocast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class VisionAdapter(nn.Module):
    """The bottleneck beside a tower MLP: C -> 12 -> C, GELU, no bias, silent at the start (up-projection zero)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.down = InputPrecisionLinear(width, hidden, bias=False)
        self.up = InputPrecisionLinear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.dropout(F.gelu(self.down(x))))


class AdemVLAdapter(nn.Module):
    """Everything that trains = everything that is saved. Computes the visual memory, once for all layers and steps."""

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        text_width, vision_width = config.text_config.hidden_size, config.vision_config.hidden_size
        self.key_embedding = nn.Parameter(torch.empty(1, config.memory_size, text_width))
        self.value_embedding = nn.Parameter(torch.empty(1, config.memory_size, text_width))
        self.visual_projector = LowRankProjector(vision_width, config.projector_dim, text_width)
        if config.use_cls_token:
            self.cls_projector = LowRankProjector(vision_width, config.projector_dim, text_width)
        if config.vision_adapter_dim:
            self.vision_adapters = nn.ModuleList(
                VisionAdapter(vision_width, config.vision_adapter_dim, config.vision_adapter_dropout)
                for _ in range(config.num_vision_adapters)
            )

    def forward(
        self, features: torch.Tensor | None, rows: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """:meth:`memory` and :meth:`image_embeds` of features in any precision.

        One call of this module, because ZeRO-3 has a module's tensors at hand only while the module is called.
        """
        embeds = None
        if features is not None:
            features = features.to(self.key_embedding.dtype)
            embeds = self.image_embeds(features, rows, batch)
        return *self.memory(features, rows, batch), embeds

    def memory(
        self, features: torch.Tensor | None, rows: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The memory that every layer attends to.

        Args:
            features: [I, 1+N, C] tower features of the I images, class token first, or None where there is no image.
            rows: [I] the row of the batch that each image belongs to; None = every row has one, in order.
            batch: B.

        Returns:
            key [B, S, D] = phi(V + E_key), value [B, S, D] = alpha * (V + E_value), and V [B, S, D] (None without
            images). Rows without an image have V = 0: a learned text memory.
        """
        config = self.config
        visual = None
        key, value = self.key_embedding, self.value_embedding
        if features is not None:
            patches = pool_scales(features[:, 1:], config.visual_token_counts, config.pooling)  # [I, S, C]
            visual = config.visual_scale * self.visual_projector(patches)  # [I, S, D]
            visual = _spread(visual, rows, batch)  # [B, S, D]
            key, value = visual + key, visual + value
        key = kernel_map(key, config.kernel).expand(batch, -1, -1)
        value = (config.fusion_scale * value).expand(batch, -1, -1)
        return key, value, visual

    def image_embeds(self, features: torch.Tensor, rows: torch.Tensor | None, batch: int) -> torch.Tensor | None:
        """The input embeddings of the images, [B, n, D]: the class token, then the pooled patches (no beta)."""
        config, parts = self.config, []
        if config.use_cls_token:
            parts.append(self.cls_projector(features[:, :1]))  # [I, 1, D]
        if config.input_visual_tokens:
            pooled = pool_scales(features[:, 1:], [config.input_visual_tokens], config.pooling)
            parts.append(self.visual_projector(pooled))
        return _spread(torch.cat(parts, dim=1), rows, batch) if parts else None


def _spread(x: torch.Tensor, rows: torch.Tensor | None, batch: int) -> torch.Tensor:
    """[I, ...] -> [B, ...], zero where a row has no image."""
    return x if rows is None else x.new_zeros(batch, *x.shape[1:]).index_copy(0, rows, x)


def count_parameters(config) -> dict[str, int]:
    """Trained numbers of a configuration: those that really train, and as the authors count them.

    The published counts include an adapter on every tower block behind the features, which gets no gradient.
    """
    with torch.device("meta"):
        adapter = AdemVLAdapter(config)
    trained = sum(p.numel() for p in adapter.parameters())
    unused = config.vision_config.num_hidden_layers - config.num_vision_adapters
    dead = unused * 2 * config.vision_config.hidden_size * config.vision_adapter_dim
    return {"trained": trained, "as_published": trained + dead}
