"""A tiny model of open_clip in a folder or repository, as ``local-dir:`` and ``hf-hub:`` read it."""

import json

import open_clip
import torch
from safetensors.torch import save_file


@torch.no_grad()
def randomize(module, std=0.2):
    generator = torch.Generator().manual_seed(4)
    for parameter in module.parameters():
        parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def open_clip_folder(folder):
    """A whole tiny open_clip model as ``local-dir:`` reads it; returns its image tower."""
    vision = {"image_size": 16, "patch_size": 4, "width": 24, "layers": 3, "head_width": 8, "mlp_ratio": 2}
    text = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    model = randomize(open_clip.CLIP(**config))
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return model.visual
