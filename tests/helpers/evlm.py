"""Tiny EVLM models and rows with several images, for the tests about it."""

from pathlib import Path

import tiny
import torch
from tiny import IMAGE_TOKEN_ID

from adem_vl_hf import EvlmForConditionalGeneration
from adem_vl_hf.modeling.labels import NOT_SUPERVISED

TOKENS = 2  # media tokens an image
NUMBERS = [2, 0, 1, 3]  # images of each row


def build(bases: Path, language_model: str = "llama", **fields) -> EvlmForConditionalGeneration:
    """A model on ``bases/llama`` (or another folder there) whose gates are open, so that what is seen shows."""
    fields, two = {"media_tokens": TOKENS, **fields}, (bases / language_model, bases / "clip")
    return tiny.perturb(EvlmForConditionalGeneration.from_base_pretrained(*two, **fields))


def fresh(bases: Path, **fields) -> EvlmForConditionalGeneration:
    """A model as it is before training: gates at zero."""
    torch.manual_seed(0)
    fields = {"media_tokens": TOKENS, **fields}
    return EvlmForConditionalGeneration.from_base_pretrained(bases / "llama", bases / "clip", **fields)


def batch(numbers=NUMBERS, tokens: int = TOKENS, side: str = "right") -> dict[str, torch.Tensor]:
    """Rows of unequal lengths: two words, then each image followed by one word, then words."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for row, number in enumerate(numbers):
        words = torch.randint(5, 300, (6 + row + number,), generator=generator).tolist()
        ids = [1, words.pop()]
        for _ in range(number):
            ids += [IMAGE_TOKEN_ID] * tokens + [words.pop()]
        rows.append(ids + words)
    longest, most = max(map(len, rows)), max(1, *numbers)
    ids = torch.full((len(rows), longest), 3)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, NOT_SUPERVISED)
    for row, words in enumerate(rows):
        start = 0 if side == "right" else longest - len(words)
        ids[row, start : start + len(words)] = torch.tensor(words)
        mask[row, start : start + len(words)] = 1
        labels[row, start + len(words) - 3 : start + len(words)] = torch.tensor(words[-3:])
    there = torch.arange(most) < torch.tensor(numbers)[:, None]  # [B, n]
    pixels = tiny.pictures(len(rows) * most).unflatten(0, (-1, most)) * there[:, :, None, None, None]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "pixel_values": pixels, "image_mask": there}


def alone(inputs: dict[str, torch.Tensor], row: int, numbers=NUMBERS) -> dict[str, torch.Tensor]:
    """One row of a batch, without its padding and with its own images only."""
    kept = inputs["attention_mask"][row].bool()
    one = {name: inputs[name][row][kept][None] for name in ("input_ids", "attention_mask", "labels")}
    if numbers[row]:
        one["pixel_values"] = inputs["pixel_values"][row, : numbers[row]][None]
    return one


def prompt(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without labels, for ``generate``."""
    return {name: tensor for name, tensor in inputs.items() if name != "labels"}
