"""Keeps the features of a vision tower in which nothing trains, so that it runs once for each image.

    FeatureCache("features").attach(model)

From then on, the model looks up the features of its images, in training, evaluation and generation, with any
``Trainer`` and any collator, and lets the tower run only for images that it has not seen. An image is known by a digest
of its pixels as they enter the tower, so that another size, another normalisation or another crop is another image.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .feature_files import KEY_BYTES, FeatureFiles, bytes_of
from .modeling.fingerprints import align_module_device, base_fingerprint
from .modeling.modeling_base import FrozenBasesForConditionalGeneration


class FeatureCache:
    """Features of images, in a folder that several processes may share, also of several runs at the same time.

    The features of each tower have a folder of their own inside, whose ``features.json`` says what they are of. An
    image takes ``1 + patches`` times the width of the tower times 2 or 4 bytes, for each level of EVLM: 50 KB with the
    small CLIP of this package in float32, 0.5 MB with CLIP ViT-L/14 in bfloat16.

    The weights of the tower are digested again after they were edited in place, or when another model uses the same
    object. Edits of ``parameter.data`` go unseen: attach the cache again after them. Models in turn should each have a
    cache of their own, in one folder if they like, because a digest takes longer than a batch.

    Args:
        folder (str | os.PathLike[str]): The folder. It is made when the first features are kept.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._files: dict[str, FeatureFiles] = {}  # by the precision of the arithmetic
        self._tower: dict[str, Any] = {}  # what says which tower it is
        self._state: Any = None  # of the tower when that was said

    def attach(self, model: FrozenBasesForConditionalGeneration) -> "FeatureCache":
        """Make a model look up the features of its images here.

        Args:
            model (FrozenBasesForConditionalGeneration): The model.

        Returns:
            The cache itself.

        Raises:
            ValueError: Something in its vision tower trains, or the folder is a file.
        """
        refuse_if_trained(model)
        if self.folder.is_file():
            raise ValueError(f"the features cannot be kept in {self.folder}: it is a file; name a folder")
        self._forget()
        model.feature_cache = self
        return self

    def _forget(self) -> None:
        self._files, self._tower = {}, {}

    @torch.compiler.disable  # files have no place in a graph
    def outputs(self, model: FrozenBasesForConditionalGeneration, pixels: torch.Tensor) -> BaseModelOutputWithPooling:
        """Find or compute the features of images. The model calls it.

        The tower runs over the images that are new, in one batch. Where all are new, the features have the bits that
        they have without a cache.

        Args:
            model (FrozenBasesForConditionalGeneration): The model.
            pixels (torch.Tensor): [I, 3, H, W].

        Returns:
            Outputs of the tower with nothing but ``pooler_output``, [I, 1+N, C] ([I, k, 1+N, C] of k levels).

        Raises:
            ValueError: Something in the vision tower trains, or its weights are spread over processes.
        """
        refuse_if_trained(model)
        tower = model.vision_tower
        files = self._files_of(model)
        keys = [_digest(one) for one in pixels.detach().to(tower.dtype).cpu().contiguous()]
        found = files.find(keys)
        first = {key: number for number, key in reversed(list(enumerate(keys)))}  # an image may come several times
        new = sorted(number for key, number in first.items() if key not in found)
        if new:
            some = pixels if len(new) == len(keys) else pixels[new]
            computed = model.get_image_features(some, return_dict=True).pooler_output  # type: ignore[union-attr]
            files.keep([keys[number] for number in new], computed)
            if len(new) == len(keys):
                return BaseModelOutputWithPooling(pooler_output=computed)
            found |= {keys[number]: one for number, one in zip(new, computed.cpu(), strict=True)}
        return BaseModelOutputWithPooling(pooler_output=torch.stack([found[key] for key in keys]).to(tower.device))

    def _files_of(self, model: FrozenBasesForConditionalGeneration) -> FeatureFiles:
        """The files with the features of this model's tower in the arithmetic that is in force."""
        state = _state_of_tower(model)
        if state != self._state:
            self._forget()
            self._state = state
        kind = model.vision_tower.device.type
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"
        if autocast not in self._files:
            if not self._tower:
                _refuse_if_sharded(model)
                shape = base_fingerprint(model.vision_tower)["config"]
                self._tower = {"shape_of_tower": shape, "weights": _digest_of_weights(model.vision_tower)}
            about = {
                "tower": model.config.vision_model_name_or_path or type(model.vision_tower).__name__,
                **self._tower,
                "dtype_of_weights": str(model.vision_tower.dtype),
                "autocast": autocast,
                "vision_feature_layer": model.config.vision_feature_layer,
                "image_size": model.config.image_size,
                "transformers": transformers.__version__,
            }
            decides = json.dumps({**about, "tower": None}, sort_keys=True)
            name = hashlib.sha256(decides.encode()).hexdigest()[:16]
            self._files[autocast] = FeatureFiles(self.folder / name, about)
        return self._files[autocast]


def refuse_if_trained(model: FrozenBasesForConditionalGeneration) -> None:
    """Refuse to keep features that change in training.

    Args:
        model (FrozenBasesForConditionalGeneration): The model.

    Raises:
        ValueError: Something in its vision tower trains.
    """
    if not model.tower_trains():
        return
    dim, blocks = (getattr(model.config, name, 0) for name in ("vision_adapter_dim", "train_vision_blocks"))
    what = (
        f"its adapters (vision_adapter_dim={dim}); build the model with vision_adapter_dim=0"
        if model.adapts_tower
        else f"its last blocks (train_vision_blocks={blocks}); build the model with train_vision_blocks=0"
        if blocks
        else "parameters in it that require gradients; freeze them"
    )
    raise ValueError(
        f"the features of the vision tower cannot be kept, because they change with what trains in it: {what}, or "
        "leave the cache out"
    )


def is_spread(model: nn.Module) -> bool:
    """Tell whether FSDP or ZeRO-3 spreads the weights of a model over processes, which must all run it together.

    Args:
        model (nn.Module): The model.

    Returns:
        Whether it does.
    """
    wrapped = any(hasattr(part, "_fsdp_wrapped_module") or hasattr(part, "_get_fsdp_state") for part in model.modules())
    return wrapped or any(hasattr(parameter, "ds_id") for parameter in model.parameters())


def _refuse_if_sharded(model: nn.Module) -> None:
    """Refuse FSDP and ZeRO-3, where all processes must run the tower in the same steps, or wait for each other."""
    if is_spread(model):
        raise ValueError(
            "the features of the vision tower cannot be kept where FSDP or ZeRO-3 spreads its weights over processes, "
            "because a process that has its features would not take part in the tower's run of the others; use plain "
            "data parallelism or ZeRO-2, or leave the cache out"
        )


def _state_of_tower(model: FrozenBasesForConditionalGeneration) -> Any:
    """What differs if the features may differ: settings, and which tensors the tower has, each written to how often.

    Offloaded tensors are left out, since each run makes new ones of them.
    """
    tower = model.vision_tower
    tensors = [
        (id(tensor), 0 if tensor.is_inference() else tensor._version)  # those of inference mode count no writes
        for tensor in (*tower.parameters(), *tower.buffers())
        if not tensor.is_meta
    ]
    return str(model.config.vision_feature_layer), model.config.image_size, tower.dtype, tensors


def _digest(pixels: torch.Tensor) -> bytes:
    return hashlib.sha256(bytes_of(pixels)).digest()[:KEY_BYTES]


def _digest_of_weights(tower: nn.Module) -> str:
    """A digest of every weight: a merged LoRA may have changed a few matrices alone, in which no sample lies."""
    digest = hashlib.sha256()
    for name, module in tower.named_modules():
        with align_module_device(module):  # brings what is offloaded
            for own, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                digest.update(f"{name}.{own} {tuple(tensor.shape)}".encode())
                digest.update(bytes_of(tensor))
    return digest.hexdigest()[:16]
