"""Wraps the image towers of the package open_clip in those attributes of a ``CLIPVisionModel`` that a model uses."""

import logging
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.utils import cached_file

from .base_sizes import no_larger_than_its_files
from .reading import errors_naming

HF_HUB, LOCAL_DIR = "hf-hub:", "local-dir:"  # how the names of open_clip begin that are repositories, or folders
OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_QUIET = threading.Lock()


def need_open_clip() -> ModuleType:
    """Import the optional package open_clip, which takes seconds and is therefore left until it is used.

    Returns:
        ModuleType: The package.

    Raises:
        ImportError: It is not installed. The message says how to install it.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError(
            "vision_backend='open_clip' needs the package open_clip_torch: pip install open_clip_torch"
        ) from error
    return open_clip


class OpenClipVisionTower(nn.Module):
    """Wraps an open_clip image tower in those attributes of a ``CLIPVisionModel`` that the model uses.

    Args:
        visual (nn.Module): The ``VisionTransformer`` of open_clip.

    Raises:
        ValueError: The tower is not a plain ViT with a class token.
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.config = open_clip_vision_config(visual)
        self.visual = visual

    @classmethod
    def from_config(cls, config: CLIPVisionConfig) -> "OpenClipVisionTower":
        """Make a tower with fresh weights.

        Args:
            config (CLIPVisionConfig): Its shape and activation.

        Returns:
            OpenClipVisionTower: The tower.

        Raises:
            ImportError: open_clip is not installed.
        """
        activation = nn.GELU if config.hidden_act == "gelu" else need_open_clip().transformer.QuickGELU
        return cls(
            need_open_clip().transformer.VisionTransformer(
                image_size=config.image_size,
                patch_size=config.patch_size,
                width=config.hidden_size,
                layers=config.num_hidden_layers,
                heads=config.num_attention_heads,
                mlp_ratio=config.intermediate_size / config.hidden_size,
                output_dim=config.projection_dim,
                act_layer=activation,
            )
        )

    @classmethod
    def from_pretrained(cls, name: str, dtype: torch.dtype | None = None, **hub: Any) -> "OpenClipVisionTower":
        """Load a tower by the name that open_clip knows it by.

        Args:
            name (str): ``hf-hub:org/name``, ``local-dir:/path``, or ``ARCHITECTURE/TAG`` of open_clip's own list such
                as ``ViT-B-32/laion2b_s34b_b79k``.
            dtype (torch.dtype | None): The dtype of the weights. None means float32.
            **hub (Any): Hub arguments such as ``token`` and ``revision``. Of a name in open_clip's list, whose files
                open_clip fetches itself, only ``cache_dir`` is followed, and ``token`` is not needed.

        Returns:
            OpenClipVisionTower: The tower.

        Raises:
            OSError: A file cannot be reached, or is not there.
            RuntimeError: open_clip cannot load the weights.
            ValueError: The name has no tag, a Hub argument cannot be followed, or the tower is not a plain ViT with a
                class token.
            ImportError: open_clip is not installed.
        """
        module = need_open_clip()
        arguments: dict[str, Any] = {"require_pretrained": True}
        if name.startswith(HF_HUB):  # open_clip knows neither a token nor a revision
            repository = name.removeprefix(HF_HUB)
            files = [cached_file(repository, file, **hub) for file in (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS)]
            name = f"{LOCAL_DIR}{Path(files[0]).parent}"
        elif name.startswith(LOCAL_DIR):
            name = str(Path(name) / hub.get("subfolder", ""))
        else:
            name, _, arguments["pretrained"] = name.partition("/")
            if not arguments["pretrained"]:
                raise ValueError(
                    f"open_clip tower {name!r} names no weights; write ARCHITECTURE/TAG (such as "
                    "ViT-B-32/laion2b_s34b_b79k), hf-hub:org/name or local-dir:/path"
                )
            for argument in ("revision", "subfolder", "local_files_only", "force_download"):
                if hub.get(argument):
                    raise ValueError(
                        f"open_clip fetches the files of {name!r} itself and does not follow {argument}; name the "
                        "tower hf-hub:org/name or local-dir:/path"
                    )
            arguments["cache_dir"] = hub.get("cache_dir")
        if name.startswith(LOCAL_DIR):  # and not a name of open_clip's own list
            _try_on_meta(name)
        return cls(module.create_model(name, **arguments).visual.to(dtype or torch.float32))

    def train(self, mode: bool = True) -> "OpenClipVisionTower":
        """Stay in evaluation mode, whatever the mode of the model, because a frozen tower must not drop patches.

        Args:
            mode (bool): Ignored.

        Returns:
            OpenClipVisionTower: The tower itself.
        """
        return super().train(False)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.visual.conv1.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.visual.conv1.weight.device


def _try_on_meta(name: str) -> None:
    """Build a model of open_clip without memory, so that one that is larger than its files is refused."""
    folder = name.removeprefix(LOCAL_DIR)
    with _QUIET:  # of two threads, the second would take the first one's silence for what was before
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # which says that no weights were loaded
        try:
            with (
                errors_naming(f"{folder}/{OPEN_CLIP_CONFIG}"),
                no_larger_than_its_files(folder, {}, OPEN_CLIP_WEIGHTS),
                torch.device("meta"),
            ):
                need_open_clip().create_model(name, load_weights=False, pretrained_text=False, device="meta")
        finally:
            logging.disable(before)


def open_clip_vision_config(visual: nn.Module) -> CLIPVisionConfig:
    """Describe an open_clip ViT as a ``CLIPVisionConfig``.

    Args:
        visual (nn.Module): The ``VisionTransformer`` of open_clip.

    Returns:
        CLIPVisionConfig: Its shape and activation.

    Raises:
        ValueError: The tower is not a plain ViT with a class token.
    """
    if type(visual).__name__ != "VisionTransformer" or getattr(visual, "attn_pool", None) is not None:
        raise ValueError(
            f"open_clip tower {type(visual).__name__} is not a plain ViT with a class token; "
            "use a ViT-* architecture without attentional pooling"
        )
    block = visual.transformer.resblocks[0]
    quick = type(block.mlp.gelu).__name__ == "QuickGELU"
    return CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        projection_dim=visual.output_dim,
        hidden_act="quick_gelu" if quick else "gelu",
    )
