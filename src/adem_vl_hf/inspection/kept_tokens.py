"""Where an ADEM-VL looks: which slots of its visual memory the adaptive drop kept, and how strongly words used them.

Adaptive fusion (arXiv 2410.17779, Sec. III and Algorithm 1) zeroes the lowest scores of every text position in every
layer. What is measured here are those scores in one pass over a prompt and its answer, caught by temporary hooks at
the place where the layers take their queries. Shapes: T tokens of the answer, S memory slots, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isqrt
from typing import Any

import torch
from PIL import Image

from ..modeling.fusion import adaptive_drop_, keep_mask, kernel_map
from ..modeling.images import ImageSource, open_image
from ..modeling.processing_adem_vl import IGNORED


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """What one picture's memory slots did while one answer was said; all tensors are float32 on the CPU.

    A token belongs to the text position that predicts it, the one before it. Slots are in the order of the scales.

    Args:
        tokens: the T tokens of the answer as text, without the end-of-sequence token; joined they are the answer.
        kept: a grid [side, side] per scale: the share (0 ... 1) of layers and tokens in which the slot was kept.
        kept_by_token: [T, S], the share of layers in which the slot was kept.
        scores_by_token: [T, S], the score after the drop (signed, a dropped one counts 0), mean over the layers.
        picture: RGB, as the tower sees it, resized and cropped: what the grids lie on.
    """

    tokens: list[str]
    kept: list[torch.Tensor]
    kept_by_token: torch.Tensor
    scores_by_token: torch.Tensor
    picture: Image.Image

    def grids(self, slots: torch.Tensor) -> list[torch.Tensor]:
        """[..., S], such as ``scores_by_token``, as one grid [..., side, side] per scale."""
        return split_scales(slots, [grid.numel() for grid in self.kept])


def split_scales(slots: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """[..., sum(counts)] -> one square grid [..., side, side] per scale, row by row; ``counts`` are squares."""
    return [part.unflatten(-1, (isqrt(part.shape[-1]),) * 2) for part in slots.split(list(counts), dim=-1)]


def kept_mask(scores: torch.Tensor, drop_ratio: float) -> torch.Tensor:
    """Which of the scores [..., S] ``adaptive_drop_`` keeps, bool; a kept score may be 0 itself."""
    kept = keep_mask(scores, drop_ratio)
    return torch.ones_like(scores, dtype=torch.bool) if kept is None else kept.bool()


@torch.no_grad()
def kept_visual_tokens(model: Any, processor: Any, image: ImageSource, prompt: str, answer: str) -> KeptTokens:
    """One pass over ``prompt + answer`` (as they stand, so the answer usually starts with a space) with one picture.

    Args:
        model: an ``AdemVLForConditionalGeneration``; it is left as it was, in its mode and without hooks.
        processor: its ``AdemVLProcessor``.

    Raises:
        ValueError: no image, an answer without text, a prompt that leaves nothing before the answer, or a row longer
            than the window.
    """
    batch, positions, tokens = pass_over_answer(model, processor, image, prompt, answer)
    config = model.config
    found: list[tuple[torch.Tensor, torch.Tensor]] = []  # per layer, [T, S] each

    def look(query: torch.Tensor) -> None:
        key = memory["visual_key"].to(query.device)  # [1, S, D]
        scores = kernel_map(query, config.kernel) @ key.transpose(1, 2)  # [1, all positions, S]
        kept, fused = kept_mask(scores, config.drop_ratio), adaptive_drop_(scores.clone(), config.drop_ratio)
        found.append((kept[0].cpu()[positions].float(), fused[0].cpu()[positions].float()))

    training = model.training
    model.eval()
    try:
        memory = model.get_visual_memory(batch.pop("pixel_values"), batch.pop("image_mask"))
        memory.pop("image_hidden_states")
        with _hooks(model, look):
            model(**batch, **memory, use_cache=False)
    finally:
        model.train(training)
    kept_by_token = torch.stack([kept for kept, _ in found]).mean(0)
    return KeptTokens(
        tokens=tokens,
        kept=split_scales(kept_by_token.mean(0), config.visual_token_counts),
        kept_by_token=kept_by_token,
        scores_by_token=torch.stack([scores for _, scores in found]).mean(0),
        picture=as_the_tower_sees(processor, image),
    )


def pass_over_answer(
    model: Any, processor: Any, image: ImageSource, prompt: str, answer: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[str]]:
    """What the model is given, the T positions that predict the answer's tokens, and those tokens as text.

    Raises:
        ValueError: as ``kept_visual_tokens``.
    """
    if image is None:
        raise ValueError("image is None: where a model looks needs a picture to look at")
    batch = dict(processor(images=[image], text=[prompt], suffix=[answer], return_tensors="pt"))
    supervised = (batch.pop("labels")[0] != IGNORED).nonzero().flatten()[:-1]  # [T], without the end of sequence
    if supervised[0] == 0:
        raise ValueError("nothing stands before the answer, so nothing predicts its first token; give a prompt")
    tokens = _pieces(processor, batch["input_ids"][0][supervised].tolist())
    return {name: tensor.to(model.device) for name, tensor in batch.items()}, supervised - 1, tokens


@contextmanager
def _hooks(model: Any, look: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Call ``look`` in every decoder layer, in order, with the very query [B, all positions, D] that it fuses with."""
    config = model.config

    def before(module, args, kwargs):
        look(args[0] if args else kwargs["hidden_states"])

    def after(module, args, kwargs, output):
        look(output[0] if isinstance(output, tuple) else output)

    handles = []
    try:
        for layer in model.language_model.get_decoder().layers:
            module = layer.mlp if config.query_from.startswith("mlp") else layer.self_attn
            # in front of the model's own hooks, which change what comes in or goes out
            if config.query_from.endswith("_in"):
                handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(after, prepend=True, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pieces(processor: Any, ids: list[int]) -> list[str]:
    """The text that each token adds. A character made of several tokens belongs to its last, the others add nothing."""
    lengths = [len(processor.decode(ids[:end]).rstrip("\ufffd")) for end in range(1, len(ids))]
    whole = processor.decode(ids)
    ends = [min(end, len(whole)) for end in accumulate([0, *lengths], max)] + [len(whole)]
    return [whole[start:end] for start, end in pairwise(ends)]


def as_the_tower_sees(processor: Any, image: ImageSource) -> Image.Image:
    """The picture resized and cropped, as the tower gets it."""
    pixels = processor.image_processor(
        images=[open_image(image)], do_rescale=False, do_normalize=False, return_tensors="pt"
    )["pixel_values"][0]  # [3, H, W], 0 ... 255
    return Image.fromarray(pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
