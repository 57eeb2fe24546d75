"""The golden files as inputs and expectations of our model: the authors' rows are assembled here."""

from dataclasses import dataclass
from pathlib import Path

import tiny
import torch
from safetensors.torch import load_file

from adem_vl_hf.hub.convert_official import ConversionReport, convert_official
from adem_vl_hf.modeling.labels import NOT_SUPERVISED


@dataclass
class Golden:
    """One golden folder."""

    bases: Path
    checkpoint: Path  # converted by us
    report: ConversionReport
    settings: dict
    inputs: dict[str, torch.Tensor]  # as our model takes them
    expected: dict[str, torch.Tensor]


def config_fields(settings: dict) -> dict:
    """The fields of our configuration that the settings of a golden folder name."""
    return {
        "visual_token_counts": settings["scales"],
        "drop_ratio": settings["drop_ratio"],
        "use_cls_token": settings["use_cls"],
        "fusion_scale": settings["alpha"],
        "visual_scale": settings["beta"],
        "projector_dim": settings["projector_dim"],
        "vision_adapter_dim": settings["clip_adapter_dim"],
        "vision_adapter_scale": settings["clip_adapter_scale"],
        # the files were computed without dropout
        "vision_adapter_dropout": 0.0,
    }


def assemble(raw: dict[str, torch.Tensor], use_cls: bool, image_token_id: int) -> dict[str, torch.Tensor]:
    """``[bos] + "Image: " + <class token> + rest`` or ``[bos] + "Image: N/A" + rest``, cut back to the old length.

    Without a class token nothing is inserted. No attention mask: padding is on the right and the authors mask none of
    it, so that even the padded positions can be compared.
    """
    ids, labels = [], []
    length = raw["input_ids"].shape[1]
    for tokens, targets, has_image in zip(raw["input_ids"], raw["labels"], raw["has_image"], strict=True):
        inserted = raw["prefix_with_image" if has_image else "prefix_without_image"].tolist()
        inserted = inserted + [image_token_id] * int(has_image) if use_cls else []
        ids.append([tokens[0].item(), *inserted, *tokens[1:].tolist()][:length])
        targets = [NOT_SUPERVISED if target == 0 else target for target in targets.tolist()]
        labels.append([targets[0], *[NOT_SUPERVISED] * len(inserted), *targets[1:]][:length])
    labels = torch.tensor(labels)
    supervised = (labels != NOT_SUPERVISED).any(0).nonzero().max() + 1
    return {
        "input_ids": torch.tensor(ids)[:, :supervised],
        "labels": labels[:, :supervised],
        "pixel_values": raw["pixel_values"],
        "image_mask": raw["has_image"].bool(),
    }


def load(name: str, folder: Path) -> Golden:
    """Convert ``official_checkpoint.pth`` and assemble its inputs."""
    settings = tiny.golden_bases(name, folder)
    raw = load_file(tiny.GOLDEN / name / "inputs.safetensors")
    spoken_for = {*raw["input_ids"].flatten().tolist(), *raw["prefix_with_image"].tolist()}
    spoken_for |= {*raw["prefix_without_image"].tolist()}
    image_token_id = min(set(range(97)) - spoken_for)  # a token of the vocabulary of 97 that no row holds
    report = convert_official(
        tiny.GOLDEN / name / "official_checkpoint.pth",
        folder / "llama",
        folder / "clip",
        folder / "converted",
        image_token_id=image_token_id,
        **config_fields(settings),
    )
    inputs = assemble(raw, settings["use_cls"], image_token_id)
    expected = load_file(tiny.GOLDEN / name / "expected.safetensors")
    return Golden(folder, folder / "converted", report, settings, inputs, expected)
