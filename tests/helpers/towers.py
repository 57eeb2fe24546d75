"""Tiny random vision towers of every kind, with image processors as on the Hub, and models on them."""

import json
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

from adem_vl_hf import AdemVLForConditionalGeneration, EvlmForConditionalGeneration

PATCH, PATCHES = 4, tiny.GRID**2
WIDTH, SIDE = tiny.VISION_WIDTH, tiny.IMAGE_SIZE
SHAPE = {
    "hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
MLP = {"intermediate_size": 2 * WIDTH}
# the configuration of DINOv2 on the Hub says 518 px, and its image processor makes 224; here 28 and 16
LARGER = {"image_size": 28, "mlp_ratio": 2}
SQUARE = {"height": SIDE, "width": SIDE}
ROW = tuple[str, str, dict[str, Any], dict[str, Any]]
# by model_type: the classes of configuration and tower, what differs from SHAPE, preprocessor_config.json
KINDS: dict[str, ROW] = {
    "clip_vision_model": (
        "CLIPVisionConfig", "CLIPVisionModel", MLP,
        {"image_processor_type": "CLIPImageProcessor", "size": SQUARE, "do_center_crop": False},
    ),
    "siglip_vision_model": (
        "SiglipVisionConfig", "SiglipVisionModel", MLP, {"image_processor_type": "SiglipImageProcessor", "size": SQUARE}
    ),
    "dinov2": (
        "Dinov2Config", "Dinov2Model", LARGER,
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 18}, "crop_size": SQUARE},
    ),
    "dinov2_with_registers": (
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {**LARGER, "num_register_tokens": 2},
        {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 18}, "crop_size": SQUARE},
    ),
    "dinov3_vit": (
        "DINOv3ViTConfig", "DINOv3ViTModel", {**MLP, "num_register_tokens": 2, "num_attention_heads": 2},
        {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": SQUARE},
    ),
    "vit": ("ViTConfig", "ViTModel", MLP, {"image_processor_type": "ViTImageProcessor", "size": SQUARE}),
    "deit": (
        "DeiTConfig", "DeiTModel", MLP,
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 18, "crop_size": SIDE},
    ),
}  # fmt: skip
NAMES = {"clip_vision_model": "clip", "siglip_vision_model": "siglip"}
IDS = [NAMES.get(kind, kind) for kind in KINDS]
MODELS = {"adem_vl": AdemVLForConditionalGeneration, "evlm": EvlmForConditionalGeneration}
FIELDS = {
    "adem_vl": {"projector_dim": 8, "vision_adapter_dim": 4, "vision_adapter_dropout": 0.0, **tiny.SHOWING},
    "evlm": {"vision_feature_layer": [1, 3], "media_tokens": 1, "cross_attention_ratio": 0.5},
}


def config(kind: str, **fields) -> transformers.PretrainedConfig:
    """The configuration of a tiny tower."""
    config_class, _, own, _ = KINDS[kind]
    return getattr(transformers, config_class)(**{**SHAPE, **own, **fields})


@torch.no_grad()
def randomize(tower: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random numbers where a fresh tower has zeros and ones, too: lost or mixed-up weights would go unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in tower.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return tower.eval()


def tower(kind: str, seed: int = 0, **fields) -> torch.nn.Module:
    """A tiny tower, as the library makes it."""
    return randomize(getattr(transformers, KINDS[kind][1])(config(kind, **fields)), seed)


def save_image_processor(kind: str, folder: Path) -> None:
    """Write the file that says how images are prepared."""
    usual = {"do_resize": True, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.4]}
    written = {**usual, "resample": 3, **KINDS[kind][3]}
    if "crop_size" in written:
        written["do_center_crop"] = True
    (folder / "preprocessor_config.json").write_text(json.dumps(written))


def save(kind: str, folder: Path, seed: int = 0, **fields) -> Path:
    """A tiny tower with its image processor in a folder."""
    tower(kind, seed, **fields).save_pretrained(folder)
    if kind in NAMES:
        tiny.to_hub_layout(folder / "model.safetensors")
    save_image_processor(kind, folder)
    return folder


def build(model: str, bases: Path, vision_tower: Any, **fields) -> Any:
    """A model of one kind on ``bases/llama`` and a tower; one image token an image, as ``tiny.batch`` has it."""
    return MODELS[model].from_base_pretrained(bases / "llama", vision_tower, **{**FIELDS[model], **fields})


def rows():
    """A batch of three rows, two of them with an image, without labels."""
    inputs = tiny.batch([6, 5, 4], [True, True, False])
    del inputs["labels"]
    return inputs
