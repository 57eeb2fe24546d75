"""Notes in each row of a prediction file what made it, so that no file goes on with the answers of another model."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..data.sample import Chat, Shown
from ..modeling.checkpoint import adapter_digest
from ..modeling.fingerprints import SAMPLES, can_sample
from .predictions import Prediction

REMEDY = "remove the file or choose another one"
DIGITS = 12  # of each digest


def _sample_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take a few values of every tensor; a merged LoRA, which touches every value of a matrix, shows in them."""
    samples = {}
    for key, tensor in tensors.items():
        if can_sample(key, tensor):
            flat = tensor.detach().reshape(-1)
            samples[key] = flat[:: -(-flat.numel() // SAMPLES)].to("cpu", copy=True)
    return samples


def model_digest(model: Any) -> str | None:
    """Make a short name of a model from what it was trained to be.

    Args:
        model (Any): The model. Its adapter counts with every value, its bases with a few values of each tensor.

    Returns:
        Hexadecimal digits, or None of a model of another package.
    """
    if not hasattr(model, "adapter_state_dict"):
        return None
    tensors = model.state_dict()
    of_peft = {key: tensor for key, tensor in tensors.items() if "lora_" in key}
    of_bases = {f"some of {key}": some for key, some in _sample_weights(tensors).items()}
    return adapter_digest(of_bases | of_peft | model.adapter_state_dict())[:DIGITS]


def asked_digest(prompt: str | Chat, shown: Shown) -> str:
    """Make a short name of a question and its images.

    Args:
        prompt (str | Chat): The prompt.
        shown (Shown): The images, opened.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps([prompt, shown.field]).encode())
    for image in shown.images:
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()[:DIGITS]


def check_made_with(path: Path, rows: Iterable[Prediction], made_with: dict[str, Any]) -> int:
    """Refuse a file whose predictions another model made, or the same one with answers of another length.

    Args:
        path (Path): The prediction file.
        rows (Iterable[Prediction]): Its rows. Those of earlier versions of this package do not say what made them.
        made_with (dict[str, Any]): ``model`` and ``max_new_tokens`` of the predictions to come.

    Returns:
        The number of rows that do not say it.

    Raises:
        ValueError: They are others. The message names the file and what differs.
    """
    unknown = 0
    for row in rows:
        before = row.get("made_with")
        if before is None:
            unknown += 1
        elif before.get("model") != made_with["model"]:
            raise ValueError(f"{path} holds predictions of another model or checkpoint; {REMEDY}")
        elif before.get("max_new_tokens") != made_with["max_new_tokens"]:
            raise ValueError(
                f"{path} holds predictions of at most {before.get('max_new_tokens')} new tokens, not "
                f"{made_with['max_new_tokens']}; {REMEDY}"
            )
    return unknown
