"""Tells whether a base is the one that an adapter was trained on: by its shape, and a few values of a few tensors."""

import contextlib
import hashlib
import json
import math
import warnings
from typing import Any

import torch
from torch import nn

from .quantization import from_gguf
from .towers import name_on_the_hub

try:
    from accelerate.utils import align_module_device
except ImportError:  # nothing is offloaded without it
    align_module_device = contextlib.nullcontext

# what decides whether an adapter fits a base at all
SHAPE_FIELDS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "image_size", "patch_size",
)  # fmt: skip
SAMPLES = 8  # values of each tensor that the fingerprint keeps
TOLERANCE = 0.01  # relative: half precision rounds by 0.4 %, another fine-tune differs by more
# of a table of embeddings that went through GGUF: two bits per weight lose a third, another model's numbers differ by
# more than their own size. GGUF keeps norms in full, so that these tell fine-tunes apart as ever.
GGUF_TOLERANCE = 0.5


def _shape(config) -> dict:
    return {name: getattr(config, name) for name in SHAPE_FIELDS if getattr(config, name, None) is not None}


def can_sample(key: str, tensor: torch.Tensor) -> bool:
    """Say whether the values of a tensor can be read and stay what they are while nobody changes the model.

    They cannot of tensors that are not here (meta, or another process's share), of classes of their own, and of what
    quantisation keeps beside its weights; on a CPU its weights neither, which the first forward lays out anew.

    Args:
        key (str): its key.
        tensor (torch.Tensor): the tensor.
    """
    plain = type(tensor) is torch.Tensor and tensor.numel() > 0 and tensor.device.type != "meta"
    return plain and ".weight." not in key and (tensor.is_floating_point() or tensor.device.type != "cpu")


def _values(base: nn.Module, key: str) -> list[float]:
    """A few numbers of one tensor, spread evenly over it; brought from wherever it is offloaded to."""
    owner, _, name = key.rpartition(".")
    module = base.get_submodule(owner)
    with align_module_device(module):
        flat = getattr(module, name).detach().flatten()
        if not flat.numel():
            raise ValueError(
                f"{type(base).__name__} was loaded in parts (DeepSpeed ZeRO-3), so that it cannot be recognised: "
                "build the model before TrainingArguments, which turns that on"
            )
        index = [i * (flat.numel() - 1) // (SAMPLES - 1) for i in range(SAMPLES)]
        return [round(value, 6) for value in flat[index].float().tolist()]


def _norms_and_tables(base: nn.Module) -> dict[str, str]:
    """The tensors that no quantisation packs, by the names that every version of Transformers has in common."""
    found = {}
    for key, tensor in base.state_dict().items():
        norm_or_table = "norm" in key or "embed" in key or "ln_" in key
        none = tensor.dim() > 1 and not tensor.numel()  # the registers of a tower without any
        if norm_or_table and tensor.is_floating_point() and not none:
            found[name_on_the_hub(base.config, key.removeprefix("vision_model."))] = key
    return found


def base_fingerprint(base: nn.Module) -> dict:
    """Say what a base looks like.

    Args:
        base (nn.Module): a language model or a vision tower.

    Returns:
        A hash of its shape and a few values of a few tensors that no quantisation packs. ``"gguf": True`` is added
        where the values are those of a GGUF file.

    Raises:
        ValueError: its weights are spread over processes already (DeepSpeed ZeRO-3).
    """
    shape = json.dumps(_shape(base.config), sort_keys=True)
    keys = _norms_and_tables(base)
    names = sorted(keys.values())
    chosen = {names[i * (len(names) - 1) // 3] for i in range(4)} if names else set()
    values = {name: _values(base, key) for name, key in keys.items() if key in chosen}
    fingerprint = {"config": hashlib.sha256(shape.encode()).hexdigest()[:16], "tensors": dict(sorted(values.items()))}
    return fingerprint | ({"gguf": True} if from_gguf(base.config) else {})


def _alike(expected: list[float], found: list[float]) -> bool:
    """Each value but for the rounding of half precision."""
    pairs = zip(expected, found, strict=False)
    return len(expected) == len(found) and all(abs(a - b) <= TOLERANCE * max(abs(a), abs(b), 1e-3) for a, b in pairs)


def _roughly_alike(expected: list[float], found: list[float]) -> bool:
    """All values together but for the rounding of a GGUF file."""
    return len(expected) == len(found) and math.dist(expected, found) <= GGUF_TOLERANCE * math.hypot(*expected)


def _first_unlike(expected: dict, found: dict, gguf: bool) -> str | None:
    """The first tensor that is missing, or differs by more than rounding; None if all are alike."""
    for key, values in expected.items():
        alike = _roughly_alike if gguf and "embed" in key else _alike
        if key not in found or not alike(values, found[key]):
            return key
    return None


def differing_part(before: dict, now: dict) -> str | None:
    """Compare two fingerprints.

    Args:
        before (dict): what ``base_fingerprint`` returned for one base.
        now (dict): the same for another.

    Returns:
        The first tensor in which they differ by more than rounding, or "the shape"; None if they are of one base.
    """
    gguf = bool(before.get("gguf") or now.get("gguf"))
    if not gguf and before["config"] != now["config"]:  # a GGUF file may say llama of what is a Mistral
        return "the shape"
    of_both = {key: values for key, values in before["tensors"].items() if key in now["tensors"]}
    return _first_unlike(of_both, now["tensors"], gguf)


def check_base(kind: str, checkpoint: str, saved_config: Any, fingerprint: dict | None, base: nn.Module) -> None:
    """Check that a base is the one that an adapter was trained on; other weights of the same shape are a warning.

    Args:
        kind (str): which base, for the message.
        checkpoint (str): whose adapter, for the message.
        saved_config (Any): the base's configuration as it was in training.
        fingerprint (dict | None): what the base looked like in training; None = nobody noted it.
        base (nn.Module): the base that is given.

    Raises:
        ValueError: its shape is another one, naming the fields that differ.
    """
    saved, given = _shape(saved_config), _shape(base.config)
    gguf = bool(fingerprint and fingerprint.get("gguf")) or from_gguf(base.config)
    if gguf and {saved.get("model_type"), given.get("model_type")} == {"llama", "mistral"}:
        del saved["model_type"]  # a Mistral's GGUF file says llama, which computes the same
    differing = [f"{n} {saved.get(n)} / {given.get(n)}" for n in saved if saved[n] != given.get(n)]
    name = getattr(base.config, "_name_or_path", "") or type(base).__name__
    if differing:
        raise ValueError(
            f"{checkpoint} was trained on a {kind} of another shape than {name!r} (trained / given: "
            f"{', '.join(differing)}); give the one named in its config.json"
        )
    if not fingerprint:
        return
    keys = _norms_and_tables(base)
    found = {key: _values(base, keys[key]) for key in fingerprint["tensors"] if key in keys}
    if (key := _first_unlike(fingerprint["tensors"], found, gguf)) is not None:
        warnings.warn(
            f"the {kind} {name!r} has the shape of the one that {checkpoint} was trained on but other weights "
            f"(first seen in {key}): expect worse answers",
            stacklevel=3,
        )
