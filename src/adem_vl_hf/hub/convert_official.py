"""Converts an adapter file of the authors' code (a ``.pth``) into a checkpoint of this package.

The file is ``{"model": {"module.<name>": tensor}, "optimizer", "epoch", "scaler", "args"}``. It has the tensors with
"adapter" in their names and the settings of the training. One of the tensors belongs to the last block of the vision
tower, on which no feature depends.
"""

import argparse
import os
import pickle
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessor

from ..embedded.smollm2 import resolve_language_model
from ..loading import record_embedded, resolve_vision_tower
from ..modeling.arguments import all_hub_arguments
from ..modeling.configuration_adem_vl import AdemVLConfig
from ..modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from ..modeling.one_save import one_save
from ..modeling.processing_adem_vl import AdemVLProcessor
from ..modeling.towers import IMAGENET, OPENAI

# names of the authors' modules -> names of ours; the rest of a tensor's name (fc1.weight and so on) is the same
RENAMED = {
    "adapter_emb1": "adapter.key_embedding",
    "adapter_emb2": "adapter.value_embedding",
    "adapter_proj": "adapter.visual_projector",
    "adapter_proj_cls": "adapter.cls_projector",
}
TOWER_BLOCKS = "backbone.visual.transformer.resblocks"
TOWER_LAYERS = {"fc1": "down", "fc2": "up"}

# the authors' command-line options -> fields of the configuration
RECORDED_FIELDS = {
    "down_sample_num": "visual_token_counts",
    "drop_ratio": "drop_ratio",
    "alpha": "fusion_scale",
    "beta": "visual_scale",
    "hidden_proj": "projector_dim",
    "adapter_dim": "vision_adapter_dim",
}

# the end of a tensor's name -> for each of its dimensions, the option that sets its size
DIMENSIONS = {
    "key_embedding": ("", "visual_token_counts", "language_model"),
    "value_embedding": ("", "visual_token_counts", "language_model"),
    "fc1.weight": ("projector_dim", "vision_tower"),
    "fc1.bias": ("projector_dim",),
    "fc2.weight": ("language_model", "projector_dim"),
    "fc2.bias": ("language_model",),
    "down.weight": ("vision_adapter_dim", "vision_tower"),
    "up.weight": ("vision_tower", "vision_adapter_dim"),
}

# The authors resize images to the size of the vision tower without keeping their shape. The mean and the deviation
# depend on the data set that they trained on.
LISTED, LONGEST = 10, 200  # entries that a message lists, and characters of one
NORMALIZATION = {"sqa": IMAGENET, "instruction": IMAGENET, "coco_caption": OPENAI}  # mean and deviation, by data set
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass
class ConversionReport:
    """Reports the conversion of an official file, for ``adem-vl convert`` to print.

    Args:
        output_dir (Path): The folder of the checkpoint.
        tensors (int): The number of converted tensors.
        parameters (int): The number of parameters in them.
        dropped (list[str]): The tensors of the file that the model does not have, each with the reason.
        ignored (list[str]): The other entries of the file.
        notes (list[str]): Further remarks.
    """

    output_dir: Path
    tensors: int
    parameters: int
    dropped: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.output_dir}: {self.tensors} tensors, {self.parameters:,} parameters"]
        lines += [f"dropped {entry}" for entry in _listed(self.dropped)]
        if self.ignored:
            lines.append(f"ignored {', '.join(_listed(self.ignored))}: state of the authors' training run")
        return "\n".join(lines + self.notes)


def _listed(entries: Sequence[str]) -> list[str]:
    """Return the first entries and the number of the others. The file may have any number of them, of any length."""
    more = [f"{len(entries) - LISTED:,} more"] if len(entries) > LISTED else []
    return [_short(entry) for entry in entries[:LISTED]] + more


def _short(text: str) -> str:
    """Leave out the middle of a long text."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}...{text[-LONGEST // 2 :]}"


def convert_official(
    checkpoint: str | os.PathLike[str],
    language_model: Any,
    vision_tower: Any,
    output_dir: str | os.PathLike[str],
    **config_fields: Any,
) -> ConversionReport:
    """Read an official adapter file and save it as a checkpoint.

    The processor is saved, too, if the language model has a tokenizer.

    Args:
        checkpoint (str | os.PathLike[str]): The authors' ``checkpoint-<epoch>.pth``. Half-precision tensors are saved
            as float32.
        language_model (Any): The frozen language model that it was trained on: a Hub id, a folder, ``embedded`` or a
            loaded model.
        vision_tower (Any): The frozen vision tower that it was trained on, in one of the same ways.
        output_dir (str | os.PathLike[str]): The folder to write.
        **config_fields (Any): Fields of ``AdemVLConfig`` and arguments of ``from_base_pretrained``. A field that is not
            given has the value that the file records, or otherwise that of the paper.

    Returns:
        The tensors that were converted and those that were not.

    Raises:
        ValueError: The file is not an official one, has more than tensors and settings in it, or does not fit the model
            that the bases and fields make. The message names the tensors and the option that is probably wrong.
    """
    tensors, others, settings = _read(Path(checkpoint))
    recorded = _recorded_fields(settings, Path(checkpoint), config_fields)
    model = AdemVLForConditionalGeneration.from_base_pretrained(
        resolve_language_model(language_model) if isinstance(language_model, str) else language_model,
        resolve_vision_tower(vision_tower) if isinstance(vision_tower, str) else vision_tower,
        **(recorded | config_fields),
    )
    wanted = model.adapter_state_dict()
    renamed, dropped = _rename(tensors, wanted, model.config)
    _check(Path(checkpoint), renamed, wanted, model.config)
    model.load_state_dict(renamed, strict=False)  # copies into float32 parameters, at any precision of the file
    output = Path(output_dir)
    hub = all_hub_arguments(config_fields)
    with one_save(output) as together:  # so that no interruption leaves one without the other
        processor_note = _save_processor(model.config, together, getattr(settings, "dataset", None), hub)
        record_embedded(model.config, language_model, vision_tower)
        model.save_pretrained(together)
    numbers = sum(tensor.numel() for tensor in wanted.values())
    report = ConversionReport(output, len(wanted), numbers, dropped, sorted(others))
    used = {name: getattr(model.config, name) for name in recorded}
    if recorded:
        report.notes.append(f"settings recorded in the file: {recorded}")
    for name, value in recorded.items():
        if used[name] != value:
            report.notes.append(f"note: {name} is {used[name]} as given, but the file was trained with {value}")
    report.notes.append(processor_note)
    return report


def _read(path: Path) -> tuple[dict[str, torch.Tensor], list[str], argparse.Namespace]:
    """Return the tensors by the authors' names, the names of the other entries, and the recorded settings."""
    if not path.is_file():
        raise ValueError(f"{path} is no file; give the authors' checkpoint-<epoch>.pth")
    try:
        # A .pth is a pickle, which could run any code. With weights_only, only tensors and plain containers are read.
        # The authors' files also have their parsed command line, so argparse.Namespace is allowed as well. Its objects
        # only carry attributes.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {_short(found[1])}" if found else "it is no PyTorch file"
        raise ValueError(
            f"{path} is refused: {reason}, and only tensors and an argparse.Namespace are read from a pickle; "
            "fetch the authors' file again, or save its tensors alone"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # of pickle, zipfile, struct and others, depending on where the damage is
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be read ({_short(reason)}): cut short or no PyTorch file; fetch it again"
        ) from error
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise ValueError(f"{path} has no dictionary of tensors under 'model'; give the authors' checkpoint-<epoch>.pth")
    settings = content.get("args")
    others = [str(key) for key in content if key != "model"]
    settings = settings if isinstance(settings, argparse.Namespace) else argparse.Namespace()
    plain = {name.removeprefix("module."): value for name, value in tensors.items()}
    if len(plain) < len(tensors):
        twice = next(name for name in tensors if name != (short := name.removeprefix("module.")) and short in tensors)
        raise ValueError(
            f"{path} holds both {_short(twice)} and {_short(twice.removeprefix('module.'))}; remove the one that is "
            "not meant, or fetch the authors' file again"
        )
    return plain, others, settings


def _recorded_fields(settings: argparse.Namespace, path: Path, given: Collection[str]) -> dict[str, Any]:
    """Return the fields of the configuration that the recorded settings give, without unusable ones that are given."""
    recorded: dict[str, Any] = {}
    for theirs, ours in (RECORDED_FIELDS | {"no_cls": "use_cls_token"}).items():
        if not hasattr(settings, theirs):
            continue
        value = getattr(settings, theirs)
        values = list(value) if theirs == "down_sample_num" and isinstance(value, list | tuple) else [value]
        if all(type(one) in ((bool, int) if theirs == "no_cls" else (int, float)) for one in values):
            recorded[ours] = not value if theirs == "no_cls" else values if theirs == "down_sample_num" else value
        elif ours not in given:
            wanted = "True or False" if theirs == "no_cls" else "a number"
            flag = f"--{ours.replace('_', '-')}"
            raise ValueError(
                f"args.{theirs} in {path} is {_short(repr(value))}, and {wanted} is needed; fetch the file again, or "
                f"say with {flag} what it was trained with"
            )
    return recorded


def _our_name(name: str) -> str | None:
    """Translate the authors' name of a tensor, or return None for a tensor that ADEM-VL does not have."""
    block = re.fullmatch(rf"{re.escape(TOWER_BLOCKS)}\.(\d+)\.adapter_mlp\.(fc1|fc2)\.weight", name)
    if block:
        return f"adapter.vision_adapters.{block[1]}.{TOWER_LAYERS[block[2]]}.weight"
    module, dot, rest = name.partition(".")
    return RENAMED[module] + dot + rest if module in RENAMED else None


def _official_name(key: str) -> str:
    """Translate our name of a tensor into the authors' name."""
    adapter = re.fullmatch(r"adapter\.vision_adapters\.(\d+)\.(down|up)\.weight", key)
    if adapter:
        layer = next(theirs for theirs, ours in TOWER_LAYERS.items() if ours == adapter[2])
        return f"{TOWER_BLOCKS}.{adapter[1]}.adapter_mlp.{layer}.weight"
    theirs, ours = next((theirs, ours) for theirs, ours in RENAMED.items() if key.startswith(ours))
    return theirs + key.removeprefix(ours)


def _rename(tensors: dict, wanted: dict, config: AdemVLConfig) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the tensors that the model has, by our names, and a line about each of the others."""
    renamed: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    for name, tensor in tensors.items():
        key = _our_name(name)
        if key is not None and key in wanted:
            renamed[key] = tensor
        elif key is None:
            dropped.append(f"{name}: ADEM-VL has no such part (LaVIN and MemVP files hold others)")
        elif key.startswith("adapter.vision_adapters") and config.vision_adapter_dim:
            dropped.append(
                f"{name}: no feature depends on this block (vision_feature_layer={config.vision_feature_layer})"
            )
        else:
            switch = "vision_adapter_dim=0" if "vision_adapters" in key else f"use_cls_token={config.use_cls_token}"
            dropped.append(f"{name}: this part is switched off by {switch}")
    return renamed, dropped


def _check(path: Path, given: dict, wanted: dict, config: AdemVLConfig) -> None:
    """Raise ValueError if a tensor is missing, has no plain numbers, another shape, or is not finite in float32."""
    missing = [key for key in wanted if key not in given]
    if missing:
        names = ", ".join(_official_name(key) for key in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(f"{path} lacks {names}{more}{_why_missing(missing)}")
    for key, tensor in given.items():
        name = f"{_official_name(key)} in {path}"
        # a nested tensor has no shape, and one on the device "meta" no numbers
        problem = None
        if tensor.is_meta:
            problem = "has no numbers (it is on the device meta)"
        elif tensor.is_nested:
            problem = "is a nested tensor"
        elif tensor.dtype not in DTYPES or tensor.layout != torch.strided:
            problem = f"is {tensor.dtype}, {tensor.layout}"
        if problem is not None:
            raise ValueError(f"{name} {problem}; it must hold floating point numbers, so fetch the file again")
        if tensor.shape != wanted[key].shape:
            remedy = _why_misshaped(key, tensor.shape, wanted[key].shape, config)
            raise ValueError(f"{name} is {tuple(tensor.shape)} where {tuple(wanted[key].shape)} is needed: {remedy}")
        if not tensor.to(wanted[key].dtype).isfinite().all():
            raise ValueError(
                f"{name} holds values that are not finite numbers in {wanted[key].dtype}; fetch the file again"
            )


def _why_missing(missing: list[str]) -> str:
    """Say which option is probably wrong if these tensors are missing."""
    if all(key.startswith("adapter.cls_projector") for key in missing):
        return ": it was trained without the class token; convert it with --use-cls-token false"
    if all(key.startswith("adapter.vision_adapters") for key in missing):
        return (
            ": it adapts fewer blocks than this tower's features depend on; was another --vision-tower meant, or "
            "--vision-adapter-dim 0 (no adapters in the tower)?"
        )
    return "; give the authors' whole file"


def _why_misshaped(key: str, given: torch.Size, wanted: torch.Size, config: AdemVLConfig) -> str:
    """Say which option is probably wrong if a tensor has another shape."""
    makers = next(makers for ending, makers in DIMENSIONS.items() if key.endswith(ending))
    if len(given) != len(wanted):
        return "it is no tensor of an ADEM-VL adapter"
    maker, theirs, ours = next(entry for entry in zip(makers, given, wanted, strict=True) if entry[1] != entry[2])
    flag = f"--{maker.replace('_', '-')}"
    if maker == "visual_token_counts":
        counts = " ".join(map(str, config.visual_token_counts))
        return (
            f"{theirs} memory slots in the file, and {flag} {counts} gives {ours}; name the scales it was trained with"
        )
    if maker in ("language_model", "vision_tower"):
        return f"it was trained on a {flag} of width {theirs}, and the given one has {ours}"
    return f"try {flag} {theirs}"


def _save_processor(config: AdemVLConfig, output: Path, dataset: str | None, hub: dict[str, Any]) -> str:
    """Save the processor, and return a line that says what was done."""
    language_model, vision_tower = config.text_model_name_or_path, config.vision_model_name_or_path
    if language_model is None or vision_tower is None:
        return "no processor saved: loaded models were given, which do not say where their tokenizer is"
    try:
        processor = AdemVLProcessor.from_base_pretrained(language_model, vision_tower, config, **hub)
    except ValueError as error:
        return f"no processor saved: {error}"
    own = processor.image_processor
    mean, std = NORMALIZATION.get(str(dataset)) or (own.image_mean, own.image_std)
    side = config.image_size
    processor.image_processor = CLIPImageProcessor(
        size={"height": side, "width": side}, do_center_crop=False, image_mean=mean, image_std=std
    )
    processor.save_pretrained(output)
    origin = f"as for {dataset}" if str(dataset) in NORMALIZATION else "with the tower's own mean and deviation"
    return f"processor saved: images resized to {side} x {side}, normalised {origin}"
