"""What the package brings (frozen models, two adapters trained on OpenMoji), and how checkpoints load."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, BitsAndBytesConfig
from transformers.utils import ADAPTER_CONFIG_NAME

from .counting import count_trained
from .embedded.dinov2 import embedded_dinov2
from .embedded.smollm2 import EMBEDDED_NAMES, LANGUAGE_MODEL_ID, resolve_language_model
from .modeling.arguments import all_hub_arguments, hub_arguments_of
from .modeling.base_sizes import read_base_config
from .modeling.bases import kind_of_tower, locate_base
from .modeling.configuration_base import FrozenBasesConfig
from .modeling.fingerprints import check_base
from .modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from .modeling.modeling_base import FrozenBasesForConditionalGeneration
from .modeling.modeling_evlm import EvlmForConditionalGeneration
from .modeling.one_save import naming_full_disk
from .modeling.processing_adem_vl import AdemVLProcessor
from .modeling.processing_evlm import EvlmProcessor
from .modeling.processor_parts import image_side
from .modeling.quantization import split_gguf
from .modeling.reading import errors_naming
from .modeling.towers import tower_config

MODELS: dict[str, tuple[type[FrozenBasesForConditionalGeneration], type[AdemVLProcessor]]] = {
    "adem_vl": (AdemVLForConditionalGeneration, AdemVLProcessor),
    "evlm": (EvlmForConditionalGeneration, EvlmProcessor),
}
FOLDER = Path(__file__).resolve().parent / "embedded"
TOWER, CHECKPOINT = FOLDER / "tower", FOLDER / "adapter"
CHECKPOINT_ON_CLIP = FOLDER / "adapter_on_clip"  # of less skill, on the small CLIP, which nobody has to download
SHIPPED = (CHECKPOINT, CHECKPOINT_ON_CLIP)

# how checkpoints name what this package brings, so that they load wherever it is installed (by the entry points in
# pyproject.toml)
SMOLLM2, CLIP, DINOV2 = "embedded:SmolLM2-135M-Instruct", "embedded:clip-96", "embedded:dinov2-small"
EMBEDDED_BASES = (SMOLLM2, CLIP, DINOV2)
EMBEDDED_TOWERS = {"embedded": CLIP, "embedded-dinov2": DINOV2}  # by the name that users give


def embedded_base(recorded: str) -> str:
    """Find a base that this package brings.

    Args:
        recorded (str): one of ``EMBEDDED_BASES``.

    Returns:
        str: its folder.

    Raises:
        ValueError: this version of the package has no such base.
    """
    if recorded == SMOLLM2:
        return resolve_language_model("embedded")
    if recorded == CLIP:
        return str(TOWER)
    if recorded == DINOV2:
        return str(embedded_dinov2())
    raise ValueError(f"{recorded}: this version of adem-vl-hf brings {', '.join(EMBEDDED_BASES)}")


def resolve_vision_tower(name: str) -> str:
    """Find a vision tower by its name.

    Args:
        name (str): ``embedded`` for the small CLIP that ships here, ``embedded-dinov2`` for DINOv2-small, which is
            downloaded and made on the first call, or any other name.

    Returns:
        str: its folder, or the other name as it is.
    """
    return embedded_base(EMBEDDED_TOWERS[name]) if name in EMBEDDED_TOWERS else name


def load_config(folder: str | os.PathLike[str], **hub: Any) -> FrozenBasesConfig:
    """The configuration of a checkpoint.

    Args:
        folder (str | os.PathLike[str]): the checkpoint, a folder or a Hub id.
        **hub (Any): Hub arguments such as ``token`` and ``revision``, and fields to replace.
            ``vision_model_name_or_path`` may be one of ``EMBEDDED_TOWERS``.

    Returns:
        FrozenBasesConfig: the configuration.

    Raises:
        OSError: it cannot be reached.
        ValueError: it is missing or damaged, holds a value that cannot be, or belongs to no model of this package.
    """
    if not str(folder).strip():
        raise ValueError("the checkpoint has an empty name; give a folder or the id of a repository on the Hub")
    place = Path(folder, hub.get("subfolder") or "")
    if place.is_file():
        raise ValueError(f"{place} is a file, and a checkpoint is a folder; name the folder with its config.json")
    if place.is_dir() and not (place / "config.json").is_file():
        if (place / ADAPTER_CONFIG_NAME).is_file():
            raise ValueError(
                f"{place} holds an adapter of PEFT alone: load it with AutoModel.from_pretrained, and the processor "
                "from the checkpoint that it was trained on"
            )
        raise ValueError(f"{place} is no checkpoint, or its config.json is missing; name another, or save it again")
    try:
        with errors_naming(f"{folder}/config.json"):
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, **by_recorded_name(hub))
    except OSError as error:
        cause = error.__cause__ or error
        if Path(folder).exists() or getattr(cause, "errno", None) is not None:  # such as a full disk
            raise
        raise OSError(f"{folder}: no such folder here, and not loaded from the Hub: {cause}") from error
    if not isinstance(config, FrozenBasesConfig):
        raise ValueError(f"{folder} holds a {config.model_type!r}; this package has {' and '.join(MODELS)}")
    return config


def load_checkpoint(
    checkpoint: str | None = None,
    *,
    token: str | bool | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    **kwargs: Any,
) -> tuple[FrozenBasesForConditionalGeneration, AdemVLProcessor]:
    """Model and processor of a checkpoint, in evaluation mode.

    Args:
        checkpoint (str | None): a folder or a Hub id; None = the adapter that ships with this package, ``CHECKPOINT``.
            Adapters of ``SHIPPED`` stand on the embedded bases.
        token (str | bool | None): the access token for the Hub, of the checkpoint and its bases. It is never saved.
        revision (str | None): commit, tag or branch of the checkpoint; its config says those of the bases.
        subfolder (str | None): the folder inside the folder or repository that holds the checkpoint.
        cache_dir (str | os.PathLike[str] | None): where downloads are kept.
        local_files_only (bool | None): take what was downloaded before, and never reach for the network.
        force_download (bool | None): download again what was downloaded before.
        **kwargs (Any): the other arguments of the model's ``from_pretrained``: ``dtype``, ``quantization_config``,
            ``text_model_token``, ``text_model_name_or_path``, ...

    Returns:
        tuple[FrozenBasesForConditionalGeneration, AdemVLProcessor]: the model and its processor.

    Raises:
        OSError: the disk is full, with its name; or the checkpoint or a base is not there.
        TypeError: a name that is neither an argument nor a field, with the nearest one or the remedy.
        ValueError: the checkpoint belongs to no model of this package, or does not fit its bases.
    """
    name = str(CHECKPOINT if checkpoint is None else checkpoint)
    # their configs name the model on the Hub, so that a copy loads anywhere
    if Path(name).resolve() in SHIPPED and "text_model_name_or_path" not in kwargs:
        kwargs["text_model_name_or_path"] = resolve_language_model("embedded")  # which may download it
    given: dict[str, Any] = {
        "token": token,
        "revision": revision,
        "subfolder": subfolder,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
    }
    hub = {argument: value for argument, value in given.items() if value is not None}
    with naming_full_disk(_downloads(cache_dir)):
        model, processor = MODELS[load_config(name, **hub).model_type]
        return model.from_pretrained(name, **hub, **by_recorded_name(kwargs)), processor.from_pretrained(name, **hub)


def _downloads(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that downloads from the Hub go to."""
    return Path(cache_dir or HF_HUB_CACHE)


def by_recorded_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Name a vision tower that this package brings as checkpoints do.

    Args:
        fields (Mapping[str, Any]): fields of a configuration, where ``vision_model_name_or_path`` may be one of
            ``EMBEDDED_TOWERS``.

    Returns:
        dict[str, Any]: the fields.
    """
    tower = fields.get("vision_model_name_or_path")
    named = {"vision_model_name_or_path": EMBEDDED_TOWERS[tower]} if tower in EMBEDDED_TOWERS else {}
    return dict(fields) | named


def build_model(
    language_model: str = "embedded", vision_tower: str = "embedded", kind: str = "adem_vl", **kwargs: Any
) -> tuple[FrozenBasesForConditionalGeneration, AdemVLProcessor]:
    """A model with a fresh adapter, and its processor.

    Args:
        language_model (str): a folder, a Hub id, a GGUF file in either, or ``"embedded"``.
        vision_tower (str): a folder, a Hub id, a name in open_clip's spelling, ``"embedded"`` or
            ``"embedded-dinov2"``.
        kind (str): ``"adem_vl"`` or ``"evlm"``.
        **kwargs (Any): the arguments of the model's ``from_base_pretrained``: Hub arguments (the files of the processor
            are fetched with them, too), ``dtype``, ``quantization_config``, fields of the configuration, ...

    Returns:
        tuple[FrozenBasesForConditionalGeneration, AdemVLProcessor]: the model, in evaluation mode, and its processor.

    Raises:
        OSError: the disk is full, with its name.
        TypeError: a name that is neither an argument nor a field, with the nearest one or the remedy.
        ValueError: a base that cannot be reached or does not fit, or a field with an impossible value.
    """
    if kind not in MODELS:
        raise ValueError(f"kind is {kind!r}; this package has {' and '.join(MODELS)}")
    text, vision = resolve_language_model(language_model), resolve_vision_tower(vision_tower)
    model_class, processor_class = MODELS[kind]
    hub = all_hub_arguments(kwargs)
    with naming_full_disk(_downloads(kwargs.get("cache_dir"))):
        _check_fields(model_class.config_class, text, vision, kwargs, hub)
        model = model_class.from_base_pretrained(text, vision, **kwargs)
        recorded = model.config.text_model_name_or_path
        processor = processor_class.from_base_pretrained(recorded, vision, model.config, **hub)
    record_embedded(model.config, language_model, vision_tower)
    return model, processor


def record_embedded(config: FrozenBasesConfig, language_model: Any, vision_tower: Any) -> None:
    """Have a configuration name what this package brings as checkpoints do, not by the folder that it is in here.

    Args:
        config (FrozenBasesConfig): the configuration, which is changed.
        language_model (Any): the language model as the user named it, or a loaded one.
        vision_tower (Any): the vision tower, likewise.
    """
    if isinstance(language_model, str) and language_model.lower() in EMBEDDED_NAMES:
        config.text_model_name_or_path = SMOLLM2
    if isinstance(vision_tower, str) and vision_tower in EMBEDDED_TOWERS:
        config.vision_model_name_or_path = EMBEDDED_TOWERS[vision_tower]


def _check_fields(
    config_class: type[FrozenBasesConfig],
    language_model: str,
    vision_tower: str,
    arguments: dict[str, Any],
    hub: dict[str, Any],
) -> None:
    """Refuse a field with an impossible value before any weights are loaded, which can take minutes."""
    hub_of_text, hub_of_vision = (hub_arguments_of(base, hub) for base in ("text_model", "vision_model"))
    try:
        for name, where in ((language_model, hub_of_text), (vision_tower, hub_of_vision)):
            read_base_config(name, where)
        with errors_naming(language_model):
            text = AutoConfig.from_pretrained(language_model, trust_remote_code=False, **hub_of_text)
        with errors_naming(vision_tower):
            vision = AutoConfig.from_pretrained(vision_tower, trust_remote_code=False, **hub_of_vision)
    except (OSError, ValueError):
        return  # a GGUF file, open_clip's spelling, or no model at all: loading it says more
    kind_of_tower(vision_tower, **hub_of_vision)
    vision = tower_config(vision)
    fields = {name: value for name, value in arguments.items() if name in config_class.field_names and name not in hub}
    fields["image_size"] = fields.get("image_size") or image_side(vision_tower, vision, **hub_of_vision)
    config_class(text_config=text, vision_config=vision, **fields)


def describe(checkpoint: str | None = None, **fields: Any) -> dict[str, Any]:
    """Say what a checkpoint's config says: bases, revisions, the fields that define the adapter, how much was trained.

    Args:
        checkpoint (str | None): a folder or a Hub id; None = the adapter that ships with this package.
        **fields (Any): fields of the configuration to replace, such as ``text_model_name_or_path``.

    Returns:
        dict[str, Any]: the facts by name.

    Raises:
        ValueError: the checkpoint belongs to no model of this package, or a base that replaces one of its own is not
            there or of another shape.
    """
    config = load_config(CHECKPOINT if checkpoint is None else checkpoint, **fields)
    _check_moved(str(checkpoint or CHECKPOINT), config, fields)
    bases = [f"{base}_{part}" for base in ("text_model", "vision_model") for part in ("name_or_path", "revision")]
    text, vision = config.text_config, config.vision_config
    return {
        "checkpoint": str(checkpoint or f"shipped ({LANGUAGE_MODEL_ID})"),
        **{name: getattr(config, name) for name in (*bases, *config.adapter_fields, "image_token_id")},
        "language_model": f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}",
        "tower": f"{vision.model_type}, {vision.num_hidden_layers} blocks of width {vision.hidden_size}, "
        f"grid {config.grid} x {config.grid}",
        "trained_numbers": count_trained(config),
        **_weights_of(CHECKPOINT if checkpoint is None else Path(checkpoint)),
    }


def _check_moved(checkpoint: str, config: FrozenBasesConfig, fields: Mapping[str, Any]) -> None:
    """Look at the configurations of bases that replace those of a checkpoint; it was trained on others of one shape."""
    for kind, base, saved in (
        ("language model", "text_model", config.text_config),
        ("vision tower", "vision_model", config.vision_config),
    ):
        name = fields.get(f"{base}_name_or_path")
        if name is None or (base == "vision_model" and config.vision_backend != "transformers"):
            continue
        resolve = resolve_language_model if base == "text_model" else resolve_vision_tower
        path = locate_base(resolve(name), checkpoint)
        where, file = split_gguf(path) if base == "text_model" else (path, None)
        try:
            given = AutoConfig.from_pretrained(where, trust_remote_code=False, **({"gguf_file": file} if file else {}))
        except (OSError, ValueError) as error:
            raise ValueError(f"the {kind} {name!r} could not be loaded: {error}") from error
        given = tower_config(given) if base == "vision_model" else given
        check_base(kind, checkpoint, saved, None, SimpleNamespace(config=given))  # type: ignore[arg-type]  # no weights


def _weights_of(folder: Path) -> dict[str, str]:
    """Look at the weights of a checkpoint in a folder, by their header; those of a Hub id are not fetched for it."""
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.glob("model*.safetensors") if path.is_file())
    if not files:
        return {"weights": f"missing: there is no model.safetensors in {folder}"}
    try:
        for file in files:
            with safe_open(file, framework="pt"):  # compares the header with the size of the file
                pass
    except (OSError, SafetensorError) as error:
        return {"weights": f"damaged: {file.name} ({error})"}
    size = sum(file.stat().st_size for file in files)
    return {"weights": f"{', '.join(file.name for file in files)}, {size / 1e6:.1f} MB"}


def bitsandbytes_config(bits: int, dtype: torch.dtype | str | None = None) -> BitsAndBytesConfig:
    """What ``from_pretrained`` and ``from_base_pretrained`` take as ``quantization_config``.

    Args:
        bits (int): 4 (QLoRA's setting, arXiv 2305.14314: NF4, and the scales quantised once more) or 8 (LLM.int8(),
            arXiv 2208.07339).
        dtype (torch.dtype | str | None): that 4-bit weights are unpacked to and multiplied in; default bfloat16.

    Returns:
        BitsAndBytesConfig: the setting.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"{bits} bits need the package bitsandbytes: pip install 'adem-vl-hf[quantized]'")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype or torch.bfloat16,
    )


def arguments_for_bits(bits: int | None, dtype: torch.dtype | str | None = None) -> dict[str, Any]:
    """Make the keyword argument that asks for so many bits.

    Args:
        bits (int | None): 4, 8, or None for weights as they are.
        dtype (torch.dtype | str | None): as for :func:`bitsandbytes_config`.

    Returns:
        dict[str, Any]: ``quantization_config``, or nothing.
    """
    return {} if bits is None else {"quantization_config": bitsandbytes_config(bits, dtype)}
