"""The mathematics of ADEM-VL (arXiv 2410.17779, Sec. III and Algorithm 1) and all of its trained tensors.

Shapes: B batch, T text positions, S memory slots, D width of the language model, C of the tower, G side of the grid.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .image_inputs import frame_embeds, spread
from .precision import InputPrecisionLinear

MANY = 4096  # scores: among fewer, as in decoding, calling NumPy takes longer than selecting
ONE_IN_BITS = {torch.bfloat16: np.int16(0x3F80), torch.float16: np.int16(0x3C00)}


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


def keep_mask(scores: torch.Tensor, drop_ratio: float, slot_mask: torch.Tensor | None = None) -> torch.Tensor | None:
    """Which scores [B, T, S] adaptive fusion keeps: bool, or 1 and 0 in their precision. None where it drops none.

    It drops those strictly below the ``int(drop_ratio * S)``-th of each row in ascending order. The ranking is signed
    (the most negative go first), joint over all scales and images, and carries no gradient.

    Args:
        slot_mask: [B, S], the slots that are there; S is then each row's own. None = all.
    """
    most = int(drop_ratio * scores.shape[-1])
    if most == 0:
        return None
    scores = scores.detach()
    if slot_mask is not None:
        ranked = scores.masked_fill(~slot_mask[:, None], float("inf"))
        smallest = ranked.topk(most + 1, dim=-1, largest=False).values  # ascending
        dropped = (drop_ratio * slot_mask.sum(1).double()).long()  # [B]
        index = dropped[:, None, None].expand(*scores.shape[:2], 1)
        return scores >= smallest.gather(-1, index)
    # selecting is several times faster than sorting
    on_cpu = scores.device.type == "cpu" and type(scores) is torch.Tensor and not _is_traced()
    if on_cpu and scores.numel() >= MANY:
        return _keep_mask_by_numpy(scores, most)
    # deterministic algorithms refuse it on a GPU, for its indices' sake
    if on_cpu or (scores.is_cuda and not torch.are_deterministic_algorithms_enabled()):
        return _keep_mask_by_kthvalue(scores, most)
    # the largest of the most + 1 smallest
    return scores >= scores.topk(most + 1, dim=-1, largest=False, sorted=False).values.amax(-1, keepdim=True)


def _keep_mask_by_numpy(scores: torch.Tensor, most: int) -> torch.Tensor:
    """On a CPU NumPy's selection is vectorised, which torch's is not, and so is its way from bool to a number."""
    one = ONE_IN_BITS.get(scores.dtype)
    if one is None:
        rows = scores.numpy()
        kept = rows >= np.partition(rows, most, axis=-1)[..., most, None]
        return torch.from_numpy(kept.astype(rows.dtype))
    # 16-bit numbers by their bits: as integers they are in the same order once those of the negative ones are turned
    bits = scores.view(torch.int16).numpy()
    rows = bits >> 15
    rows &= 0x7FFF
    rows ^= bits
    kept = rows >= np.partition(rows, most, axis=-1)[..., most, None]
    return torch.from_numpy(kept * one).view(scores.dtype)


def _keep_mask_by_kthvalue(scores: torch.Tensor, most: int) -> torch.Tensor:
    """On a GPU one launch where the smallest ones and their maximum are two; in decoding the fewest calls."""
    return scores >= scores.kthvalue(most + 1, dim=-1, keepdim=True).values


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def adaptive_drop_(scores: torch.Tensor, drop_ratio: float, slot_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Adaptive fusion, in place: the (finite) scores [B, T, S] that ``keep_mask`` does not name become zero."""
    mask = keep_mask(scores, drop_ratio, slot_mask)
    return scores if mask is None else scores.mul_(mask)


def fuse(
    hidden_states: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kernel: str,
    drop_ratio: float,
    slot_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Parameter-free cross-attention: ``drop(phi(h) @ key^T) @ value``; no projection, no softmax, no normalisation.

    Args:
        hidden_states: [B, T, D].
        key: phi(V + E_key), [B, S, D]. value: alpha * (V + E_value), [B, S, D]. It is computed in their precision.
        slot_mask: [B, S], the slots that are there (the value of the others is zero), or None = all.
    """
    # bmm: what the operator @ asks about shapes takes a GPU's host as long as the product
    scores = torch.bmm(kernel_map(hidden_states.to(key.dtype), kernel), key.transpose(1, 2))  # [B, T, S]
    # in place: nothing else needs the scores as they were, nor does the product's backward
    scores = adaptive_drop_(scores, drop_ratio, slot_mask)
    return torch.bmm(scores, value).to(hidden_states.dtype)  # [B, T, D]


def memory_of_pass(
    key: torch.Tensor, value: torch.Tensor, slot_mask: torch.Tensor | None, positions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The memory as a pass over so many positions reads it fastest.

    A CPU multiplies a single row by 16-bit numbers several times slower than by 32-bit ones: each step of decoding
    would spend more on two products a layer than on all the rest of the fused term (``benchmarks/fusion_speed.py``).
    """
    if positions == 1 and key.device.type == "cpu" and key.dtype.itemsize == 2 and not _is_traced():
        key, value = key.float(), value.float()
    return key, value, slot_mask


class LowRankProjector(nn.Module):
    """Linear(C, r) -> SiLU -> Linear(r, D)."""

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)))


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
        """The authors' initialisation: E_key ~ N(0, 0.02^2), E_value = 0, projectors Xavier, tower adapters silent."""
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
                nn.init.kaiming_uniform_(part.down.weight, a=5**0.5)
                nn.init.zeros_(part.up.weight)

    def forward(
        self, features: torch.Tensor | None, image_mask: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """:meth:`memory` and :meth:`image_embeds` of features in any precision.

        One call of this module, because ZeRO-3 has a module's tensors at hand only while the module is called.
        """
        embeds = None
        if features is not None:
            features = features.to(self.key_embedding.dtype)
            embeds = self.image_embeds(features, image_mask, batch)
        return *self.memory(features, image_mask, batch), embeds

    def memory(
        self, features: torch.Tensor | None, image_mask: torch.Tensor | None, batch: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The memory that every layer attends to.

        Args:
            features: [I, 1+N, C] tower features of the I images, class token first, or None where there is no image.
            image_mask: [B, n] the places of the images in the rows of the batch; None = each row has as many.
            batch: B.

        Returns:
            key [B, n*S, D] = phi(V + E_key), value [B, n*S, D] = alpha / n * (V + E_value), which of the slots are
            there [B, n*S] (None = all), and V [B, n*S, D] (None without images). Rows without an image have V = 0 in
            the slots of one image: a learned text memory.

        The fused term is a sum over slots that nothing normalises: dividing by a row's n images makes it their mean,
        of the size that was learned with one image.
        """
        config = self.config
        visual, mask = None, None
        key, value = self.key_embedding, self.value_embedding
        if features is not None:
            patches = pool_scales(features[:, 1:], config.visual_token_counts, config.pooling)  # [I, S, C]
            visual = config.visual_scale * self.visual_projector(patches)  # [I, S, D]
            if config.frame_embeddings:
                visual = visual + frame_embeds(self.frame_embedding, image_mask, len(features), batch)
            visual = spread(visual, image_mask, batch)  # [B, n, S, D]
            key, value = visual + key, visual + value
            share: float | torch.Tensor = 1 / visual.shape[1]
            if image_mask is not None and image_mask.shape[1] > 1:
                there = image_mask.index_fill(1, torch.zeros(1, dtype=torch.long, device=image_mask.device), True)
                if not there.all():
                    share = (there / there.sum(1, keepdim=True)).to(value)[:, :, None, None]  # [B, n, 1, 1]
                    mask = there.repeat_interleave(visual.shape[2], dim=1)  # [B, n*S]
            key, value, visual = key.flatten(1, 2), (share * value).flatten(1, 2), visual.flatten(1, 2)
        key = kernel_map(key, config.kernel)
        # the same tensor, laid out as the product with its transpose reads it, in every layer and step
        key = key.mT.contiguous().mT.expand(batch, -1, -1)
        value = (config.fusion_scale * value).expand(batch, -1, -1)
        return key, value, mask, visual

    def image_embeds(self, features: torch.Tensor, image_mask: torch.Tensor | None, batch: int) -> torch.Tensor | None:
        """The input embeddings of the images, [B, n, m, D]: the class token, then the pooled patches (no beta)."""
        config, parts = self.config, []
        if config.use_cls_token:
            parts.append(self.cls_projector(features[:, :1]))  # [I, 1, D]
        if config.input_visual_tokens:
            pooled = pool_scales(features[:, 1:], [config.input_visual_tokens], config.pooling)
            parts.append(self.visual_projector(pooled))
        return spread(torch.cat(parts, dim=1), image_mask, batch) if parts else None


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
