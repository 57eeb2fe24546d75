"""What ships with the package (the small CLIP tower, an adapter trained on OpenMoji), and how checkpoints load."""

import os
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from .bases import LANGUAGE_MODEL_ID, resolve_language_model
from .modeling.adapter_evlm import count_parameters as count_evlm
from .modeling.base_configuration_adem_vl import FrozenBasesConfig
from .modeling.frozen_adem_vl import FrozenBasesForConditionalGeneration
from .modeling.fusion_adem_vl import count_parameters as count_adem_vl
from .modeling.lora_adem_vl import count_lora_parameters
from .modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from .modeling.modeling_evlm import EvlmForConditionalGeneration
from .modeling.processing_adem_vl import AdemVLProcessor
from .modeling.processing_evlm import EvlmProcessor

MODELS: dict[str, tuple[type[FrozenBasesForConditionalGeneration], type[AdemVLProcessor]]] = {
    "adem_vl": (AdemVLForConditionalGeneration, AdemVLProcessor),
    "evlm": (EvlmForConditionalGeneration, EvlmProcessor),
}
FOLDER = Path(__file__).parent / "pretrained_openmoji"
TOWER, CHECKPOINT = FOLDER / "tower", FOLDER / "adapter"


def resolve_vision_tower(name: str) -> str:
    """``embedded`` becomes the folder of the small CLIP that ships here; other names stay as they are."""
    return str(TOWER) if name == "embedded" else name


def load_config(folder: str | os.PathLike[str]) -> FrozenBasesConfig:
    """The configuration of a checkpoint.

    Raises:
        ValueError: it belongs to no model of this package.
    """
    config = AutoConfig.from_pretrained(str(folder))
    if not isinstance(config, FrozenBasesConfig):
        raise ValueError(f"{folder} holds a {config.model_type!r}; this package has {' and '.join(MODELS)}")
    return config


def load_checkpoint(
    checkpoint: str | None = None, **kwargs: Any
) -> tuple[FrozenBasesForConditionalGeneration, AdemVLProcessor]:
    """Model and processor of a checkpoint, in evaluation mode.

    Args:
        checkpoint: a folder or a Hub id; None = the adapter that ships with this package, on the embedded bases.
        kwargs: for the model's ``from_pretrained``.
    """
    name = str(CHECKPOINT if checkpoint is None else checkpoint)
    if checkpoint is None:
        kwargs.setdefault("text_model_name_or_path", resolve_language_model("embedded"))
    model, processor = MODELS[load_config(name).model_type]
    return model.from_pretrained(name, **kwargs), processor.from_pretrained(name)


def build_model(
    language_model: str = "embedded", vision_tower: str = "embedded", kind: str = "adem_vl", **kwargs: Any
) -> tuple[FrozenBasesForConditionalGeneration, AdemVLProcessor]:
    """A model with a fresh adapter, and its processor.

    Args:
        kind: ``"adem_vl"`` or ``"evlm"``. kwargs: as in ``from_base_pretrained``.
    """
    text, vision = resolve_language_model(language_model), resolve_vision_tower(vision_tower)
    model_class, processor_class = MODELS[kind]
    model = model_class.from_base_pretrained(text, vision, **kwargs)
    return model, processor_class.from_base_pretrained(model.config.text_model_name_or_path, vision, model.config)


def count_trained(config: FrozenBasesConfig) -> int:
    """Trained numbers of a configuration."""
    own = count_adem_vl(config)["trained"] if config.model_type == "adem_vl" else count_evlm(config)
    return own + count_lora_parameters(config)


def describe(checkpoint: str | None = None) -> dict[str, Any]:
    """What a checkpoint's config says: bases, revisions, the fields that define the adapter, how much was trained."""
    config = load_config(CHECKPOINT if checkpoint is None else checkpoint)
    bases = [f"{base}_{part}" for base in ("text_model", "vision_model") for part in ("name_or_path", "revision")]
    text, vision = config.text_config, config.vision_config
    return {
        "checkpoint": str(checkpoint or f"shipped ({LANGUAGE_MODEL_ID})"),
        **{name: getattr(config, name) for name in (*bases, *config.adapter_fields, "image_token_id")},
        "language_model": f"{text.model_type}, {text.num_hidden_layers} layers of width {text.hidden_size}",
        "tower": f"{vision.num_hidden_layers} blocks of width {vision.hidden_size}, grid {config.grid} x {config.grid}",
        "trained_numbers": count_trained(config),
    }
