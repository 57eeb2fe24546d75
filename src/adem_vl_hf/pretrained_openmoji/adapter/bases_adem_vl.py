"""The two frozen bases: how each is loaded, recorded and recognised."""

import hashlib
import json
import warnings

import torch
from torch import nn
from transformers import AutoModelForCausalLM, CLIPVisionModel

from .vision_adem_vl import OpenClipVisionTower

# what decides whether an adapter fits a base at all
SHAPE_FIELDS = (
    "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
    "image_size", "patch_size",
)  # fmt: skip
SAMPLES = 8  # values of each tensor that the fingerprint keeps
TOLERANCE = 0.01  # relative: half precision rounds by 0.4 %, another fine-tune differs by more


def _shape(config) -> dict:
    return {name: getattr(config, name) for name in SHAPE_FIELDS if getattr(config, name, None) is not None}


def _load(cls, kind: str, name: str, **arguments):
    """Load through the base's own ``from_pretrained``; a base with a weight missing is an error, not a warning."""
    try:
        model, info = cls.from_pretrained(name, output_loading_info=True, use_safetensors=True, **arguments)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the {kind} {name!r} could not be loaded ({reason}); check the id, the revision and the network, "
            "or name a local folder that holds it as safetensors"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("position_ids"))
    if missing or info["mismatched_keys"]:
        raise ValueError(
            f"the {kind} {name!r} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[:3]}; "
            "was it saved by a newer version of Transformers?"
        )
    return model


def load_language_model(name: str, **arguments) -> nn.Module:
    """Any decoder LM by ``AutoModelForCausalLM.from_pretrained``."""
    return _load(AutoModelForCausalLM, "language model", name, **arguments)


def load_vision_tower(name: str, backend: str = "transformers", **arguments) -> nn.Module:
    """A ``CLIPVisionModel``, or an open_clip tower by its own spelling (see ``OpenClipVisionTower``)."""
    if backend == "transformers":
        return _load(CLIPVisionModel, "vision tower", name, **arguments)
    dtype = arguments.get("dtype")
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    try:
        return OpenClipVisionTower.from_pretrained(name, dtype=dtype)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the vision tower {name!r} could not be loaded by open_clip: {error}") from error


def pinned_revision(base: nn.Module, asked: str | None) -> str | None:
    """The commit a base was loaded at where it came from a Hub; else the revision that was asked for."""
    return getattr(base.config, "_commit_hash", None) or asked


def base_fingerprint(base: nn.Module) -> dict:
    """What a base looks like: a hash of its shape and a few values of a few tensors that no quantisation touches."""
    shape = json.dumps(_shape(base.config), sort_keys=True)
    picked = {}
    for name, tensor in base.state_dict().items():
        norm_or_table = "norm" in name or "embed" in name or "ln_" in name
        if norm_or_table and tensor.is_floating_point() and tensor.device.type != "meta":
            picked[name] = tensor
    names = sorted(picked)
    chosen = {names[i * (len(names) - 1) // 3] for i in range(4)} if names else set()
    values = {}
    for name in sorted(chosen):
        flat = picked[name].detach().flatten()
        index = [i * (flat.numel() - 1) // (SAMPLES - 1) for i in range(SAMPLES)]
        values[name.removeprefix("vision_model.")] = [round(v, 6) for v in flat[index].float().tolist()]
    return {"config": hashlib.sha256(shape.encode()).hexdigest()[:16], "tensors": values}


def sample_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A few values of every tensor, by key; a merged LoRA, which touches every value of a matrix, shows in them.

    Left out are tensors that are not here (meta, or another process's share), classes of their own, and what
    quantisation keeps beside its weights; on a CPU its weights, too, which the first forward lays out anew.
    """
    samples = {}
    for key, tensor in tensors.items():
        plain = type(tensor) is torch.Tensor and tensor.numel() and tensor.device.type != "meta"
        if plain and ".weight." not in key and (tensor.is_floating_point() or tensor.device.type != "cpu"):
            flat = tensor.detach().reshape(-1)
            samples[key] = flat[:: -(-flat.numel() // SAMPLES)].to("cpu", copy=True)
    return samples


def changed_weight(before: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> str | None:
    """The first key whose values are others than when ``before`` was sampled; a change of dtype alone is none."""
    now = sample_weights({key: tensors[key] for key in before if key in tensors})
    for key, found in now.items():
        same_size = found.shape == before[key].shape  # else it is sharded
        if same_size and not torch.equal(found, before[key].to(found.dtype)):
            return key
    return None


def _alike(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b), 1e-3)


def check_base(kind: str, checkpoint: str, saved_config, fingerprint: dict | None, base: nn.Module) -> None:
    """An error for a base of another shape, a warning for one of the same shape that is not the one trained on."""
    saved, given = _shape(saved_config), _shape(base.config)
    differing = [f"{n} {saved.get(n)} / {given.get(n)}" for n in saved if saved[n] != given.get(n)]
    name = getattr(base.config, "_name_or_path", "") or type(base).__name__
    if differing:
        raise ValueError(
            f"{checkpoint} was trained on a {kind} of another shape than {name!r} (trained / given: "
            f"{', '.join(differing)}); give the one named in its config.json"
        )
    if not fingerprint:
        return
    values = base_fingerprint(base)["tensors"]
    for key, expected in fingerprint["tensors"].items():
        found = values.get(key)
        if found is None or not all(_alike(*pair) for pair in zip(expected, found, strict=True)):
            warnings.warn(
                f"the {kind} {name!r} has the shape of the one that {checkpoint} was trained on but other weights "
                f"(first seen in {key}): expect worse answers",
                stacklevel=3,
            )
            return
