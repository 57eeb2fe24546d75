"""Measures where an ADEM-VL looks: which slots of its visual memory are kept, and how strongly tokens use them.

Adaptive fusion (arXiv 2410.17779, Sec. III and Algorithm 1) zeroes the lowest scores of every text position in every
layer. These are the scores in one pass over a prompt and its answer. Temporary hooks compute them at the places where
the layers take their queries. Shapes: T tokens of the answer, S memory slots, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from PIL import Image

from ..modeling.fusion import adaptive_drop_, keep_mask, kernel_map
from ..modeling.images import ImageSource
from ..modes import evaluating
from .answer_pass import as_the_tower_sees, pass_over_answer, take_memory


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """Holds what the adaptive drop kept of one image's memory slots for each token of one answer.

    A token is measured at the text position that predicts it, which is the one before it. Slots are in the order of the
    scales. All tensors are float32 and on the CPU.

    Args:
        tokens (list[str]): The T tokens of the answer as text, without the end-of-sequence token. Joined, they are the
            answer.
        kept (list[torch.Tensor]): One grid [side, side] per scale: the share (0 ... 1) of layers and tokens in which
            the slot was kept.
        kept_by_token (torch.Tensor): The share of layers in which the slot was kept, [T, S].
        scores_by_token (torch.Tensor): The mean over the layers of the score after the drop, [T, S]. Scores have a
            sign, and a dropped one counts as 0.
        image (Image.Image): The image that the grids lie on: in mode RGB, resized and cropped as the vision tower sees
            it.
    """

    tokens: list[str]
    kept: list[torch.Tensor]
    kept_by_token: torch.Tensor
    scores_by_token: torch.Tensor
    image: Image.Image

    def grids(self, slots: torch.Tensor) -> list[torch.Tensor]:
        """Arrange values of slots as grids.

        Args:
            slots (torch.Tensor): One value per slot, [..., S], such as ``scores_by_token``.

        Returns:
            One grid [..., side, side] per scale.
        """
        return split_scales(slots, [grid.numel() for grid in self.kept])


def split_scales(slots: torch.Tensor, counts: Sequence[int]) -> list[torch.Tensor]:
    """Split values of slots into one square grid per scale.

    Args:
        slots (torch.Tensor): One value per slot, [..., sum(counts)], each scale row by row.
        counts (Sequence[int]): The number of slots of each scale, a square number.

    Returns:
        One grid [..., side, side] per scale.
    """
    return [part.unflatten(-1, (isqrt(part.shape[-1]),) * 2) for part in slots.split(list(counts), dim=-1)]


def kept_mask(scores: torch.Tensor, drop_ratio: float) -> torch.Tensor:
    """Tell which scores ``adaptive_drop_`` keeps. The scores alone do not tell, because a kept score may be 0.

    Args:
        scores (torch.Tensor): The scores, [..., S].
        drop_ratio (float): The share of scores that is dropped.

    Returns:
        True for each score that is kept, [..., S], bool.
    """
    kept = keep_mask(scores, drop_ratio)
    return torch.ones_like(scores, dtype=torch.bool) if kept is None else kept.bool()


@torch.no_grad()
def kept_visual_tokens(model: Any, processor: Any, image: ImageSource, prompt: str, answer: str) -> KeptTokens:
    """Measure which memory slots of an image are used in one pass over a prompt and its answer.

    Args:
        model (Any): An ``AdemVLForConditionalGeneration``. It is left in the mode that it was in, and without hooks.
        processor (Any): Its ``AdemVLProcessor``.
        image (ImageSource): The image.
        prompt (str): The text before the answer.
        answer (str): The answer. It follows the prompt as it stands, so it usually starts with a space.

    Returns:
        The kept slots and their scores by token.

    Raises:
        ValueError: There is no image, the answer has no text, nothing stands before the answer, or the sequence is
            longer than the model's window.
    """
    batch, positions, tokens = pass_over_answer(model, processor, image, prompt, answer)
    kept_by_token, scores_by_token = kept_in_pass(model, batch, positions)
    return KeptTokens(
        tokens=tokens,
        kept=split_scales(kept_by_token.mean(0), model.config.visual_token_counts),
        kept_by_token=kept_by_token,
        scores_by_token=scores_by_token,
        image=as_the_tower_sees(processor, image),
    )


@torch.no_grad()
def kept_in_pass(
    model: Any, batch: dict[str, torch.Tensor], positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure which memory slots are used in one pass.

    Args:
        model (Any): An ``AdemVLForConditionalGeneration``. It is left in the mode that it was in, and without hooks.
        batch (dict[str, torch.Tensor]): Its inputs for one row. They stay as they are.
        positions (torch.Tensor): The T positions to measure.

    Returns:
        The share of layers in which a slot was kept, and the mean of the scores after the drop, [T, S] each, float32
        and on the CPU.
    """
    config, batch = model.config, dict(batch)
    found: list[tuple[torch.Tensor, torch.Tensor]] = []  # for each layer, what is kept and the scores, [T, S] each

    def look(query: torch.Tensor) -> None:
        key = memory["visual_key"].to(query.device)  # [1, S, D]
        scores = kernel_map(query, config.kernel) @ key.transpose(1, 2)  # [1, all positions, S]
        kept, fused = kept_mask(scores, config.drop_ratio), adaptive_drop_(scores.clone(), config.drop_ratio)
        found.append((kept[0].cpu()[positions].float(), fused[0].cpu()[positions].float()))

    with evaluating(model):
        memory = take_memory(model, batch)
        with _hooks(model, look):
            model(**batch, **memory, use_cache=False)
    kept, scores = zip(*found, strict=True)
    return torch.stack(kept).mean(0), torch.stack(scores).mean(0)


@contextmanager
def _hooks(model: Any, look: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Call ``look`` in every decoder layer, in order, with the query [B, all positions, D] of its fusion."""
    config = model.config

    def before(module, args, kwargs):
        look(args[0] if args else kwargs["hidden_states"])

    def after(module, args, kwargs, output):
        look(output[0] if isinstance(output, tuple) else output)

    handles = []
    try:
        for layer in model.language_model.get_decoder().layers:
            module = layer.mlp if config.query_from.startswith("mlp") else layer.self_attn
            # These hooks must run before the model's own, which change the inputs or the outputs.
            if config.query_from.endswith("_in"):
                handles.append(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(after, prepend=True, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
