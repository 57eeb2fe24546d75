"""The vision towers of Transformers that a model can see through: one row of ``TOWERS`` for each kind.

A row says where things are in a tower; ``vision`` computes features by it, and ``bases`` loads the tower. A kind whose
class the installed version of Transformers does not have is not offered.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

OPENAI = (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
HALF = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD)  # 0.5, 0.5
# of the blocks of ViT, DeiT and DINOv2, whose weights are called as on the Hub before Transformers 5.24
ATTENTION_ON_THE_HUB = (
    (r"\battention\.q_proj\.", "attention.attention.query."),
    (r"\battention\.k_proj\.", "attention.attention.key."),
    (r"\battention\.v_proj\.", "attention.attention.value."),
    (r"\battention\.o_proj\.", "attention.output.dense."),
)
OF_VIT_ON_THE_HUB = (
    *ATTENTION_ON_THE_HUB,
    (r"^layers\.", "encoder.layer."),
    (r"\bmlp\.fc1\.", "intermediate.dense."),
    (r"\bmlp\.fc2\.", "output.dense."),
)


@dataclass(frozen=True)
class Tower:
    """One kind of vision tower.

    Args:
        name (str): What people call it.
        model_type (str): The ``model_type`` of its configuration.
        config_class (str): The class of its configuration in Transformers.
        model_class (str): Its class in Transformers.
        blocks (tuple[str, ...]): Where its list of blocks is. The places differ between versions of Transformers.
        norm (str): The norm behind the last block.
        part_of (str | None): The ``model_type`` of the model that holds the tower as its ``vision_model``, if any.
        has_class_token (bool): Whether its first token is a class token. If not, the output of its pooling head stands
            in the place of the class token.
        left_out (int | str): How many tokens stand between the class token and the patches, which are no features: a
            number, or the field of the configuration that says it.
        any_size (bool): Whether it takes images of another size than ``image_size`` of its configuration, because it
            interpolates or computes its position embeddings. The tower's image processor says the size then.
        normalization (tuple[list[float], list[float]]): Mean and standard deviation of its pixels, for a tower without
            an image processor.
        arguments (tuple[tuple[str, Any], ...]): Arguments of its class, by name.
        on_the_hub (tuple[tuple[str, str], ...]): How to turn names of weights into those on the Hub: patterns, and what
            takes their place.
    """

    name: str
    model_type: str
    config_class: str
    model_class: str
    blocks: tuple[str, ...]
    norm: str
    part_of: str | None = None
    has_class_token: bool = True
    left_out: int | str = 0
    any_size: bool = False
    normalization: tuple[list[float], list[float]] = IMAGENET
    arguments: tuple[tuple[str, Any], ...] = ()
    on_the_hub: tuple[tuple[str, str], ...] = ()

    def build(self, config: Any) -> nn.Module:
        """Make a tower with fresh weights.

        Args:
            config (Any): Its configuration.

        Returns:
            nn.Module: The tower.
        """
        return getattr(transformers, self.model_class)(config, **dict(self.arguments))


# the pooling layer of a ViT is part of no feature, and checkpoints of classifiers have none
WITHOUT_POOLER = (("add_pooling_layer", False),)
# Of DeiT, the distillation token is left out: it was trained to copy a convolutional network. Registers hold what the
# tower needs for itself (arXiv 2309.16588).
AVAILABLE = set(transformers.__all__)  # which imports nothing, as asking for a class would; dir() is slow
TOWERS = {
    row.model_type: row
    for row in (
        Tower(
            "CLIP", "clip_vision_model", "CLIPVisionConfig", "CLIPVisionModel", ("encoder.layers",), "post_layernorm",
            part_of="clip", normalization=OPENAI,
        ),
        Tower(
            "SigLIP, SigLIP 2 of fixed resolution", "siglip_vision_model", "SiglipVisionConfig",
            "SiglipVisionModel", ("encoder.layers",), "post_layernorm", part_of="siglip", has_class_token=False,
            normalization=HALF,
        ),
        Tower(
            "DINOv2", "dinov2", "Dinov2Config", "Dinov2Model", ("encoder.layer",), "layernorm", any_size=True,
            on_the_hub=ATTENTION_ON_THE_HUB,
        ),
        Tower(
            "DINOv2 with registers", "dinov2_with_registers", "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel",
            ("encoder.layer",), "layernorm", left_out="num_register_tokens", any_size=True,
            on_the_hub=ATTENTION_ON_THE_HUB,
        ),
        Tower(
            "DINOv3 ViT", "dinov3_vit", "DINOv3ViTConfig", "DINOv3ViTModel", ("model.layer", "layer"), "norm",
            left_out="num_register_tokens", any_size=True, on_the_hub=((r"^model\.", ""),),
        ),
        Tower(
            "ViT", "vit", "ViTConfig", "ViTModel", ("layers", "encoder.layer"), "layernorm", normalization=HALF,
            arguments=WITHOUT_POOLER, on_the_hub=OF_VIT_ON_THE_HUB,
        ),
        Tower(
            "DeiT", "deit", "DeiTConfig", "DeiTModel", ("layers", "encoder.layer"), "layernorm", left_out=1,
            arguments=WITHOUT_POOLER, on_the_hub=OF_VIT_ON_THE_HUB,
        ),
    )
    if row.model_class in AVAILABLE
}  # fmt: skip
WHOLE = {row.part_of: row for row in TOWERS.values() if row.part_of}  # models that hold a tower, by their model_type


def find_tower(model_type: str | None, whose: str) -> Tower:
    """Find the row of a kind of tower.

    Args:
        model_type (str | None): The ``model_type`` of its configuration, or of the model that holds it.
        whose (str): Which tower it is, for the message.

    Returns:
        Tower: The row.

    Raises:
        ValueError: The kind is not supported.
    """
    row = TOWERS.get(model_type or "") or WHOLE.get(model_type or "")
    if row is None:
        kind = repr(model_type) if model_type else "nameless"
        names = [row.name for row in TOWERS.values()]
        raise ValueError(
            f"{whose} is a {kind} model, which is not supported: take one of Transformers' kinds "
            f"{', '.join(names[:-1])} or {names[-1]}, or a plain ViT of open_clip (vision_backend='open_clip')"
        )
    return row


def tower_config(config: Any) -> Any:
    """Take the configuration of the tower out of the configuration of the model that holds it.

    Args:
        config (Any): The configuration of a tower, or of a whole model such as a ``CLIPModel``.

    Returns:
        Any: The configuration of the tower.

    Raises:
        ValueError: The kind of tower is not supported.
    """
    row = find_tower(config.model_type, "the vision tower")
    return config.vision_config if config.model_type == row.part_of else config


def tower_of(model: nn.Module) -> nn.Module:
    """Take the tower out of a loaded model that holds it: a ``CLIPModel``, a classifier on a ViT, ...

    Args:
        model (nn.Module): The model, which may be the tower itself, or a tower of open_clip.

    Returns:
        nn.Module: The tower, with the weights of the model.

    Raises:
        ValueError: The kind of tower is not supported, or the model holds none.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        return model
    row = find_tower(model.config.model_type, f"the vision tower {type(model).__name__}")
    tower_class = getattr(transformers, row.model_class)
    for part in (model, getattr(model, "vision_model", None), model.base_model):
        if isinstance(part, tower_class):
            return part
    inner = getattr(model, "vision_model", None)
    if row.part_of is None or inner is None:
        raise ValueError(f"a {type(model).__name__} holds no {row.model_class}, which is what the model sees through")
    with torch.device("meta"):  # before Transformers 5.16, what a whole model holds is the inside of the tower alone
        tower = tower_class(inner.config)
    tower.vision_model = inner
    return tower.train(model.training)


def side(size: int | list[int] | tuple[int, int]) -> int:
    """Read a size in a tower's configuration.

    Args:
        size (int | list[int] | tuple[int, int]): One number, or height and width.

    Returns:
        int: The side of the square.

    Raises:
        ValueError: Height and width differ.
    """
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise ValueError(f"the vision tower takes images or patches of {size} pixels, which are not square")
    return size[0]


def name_on_the_hub(config: Any, name: str) -> str:
    """Give a weight the name that it has in every version of Transformers' files.

    Args:
        config (Any): The configuration of the model that has the weight. Names are as they are in models without a row.
        name (str): Its name in the model, or in a block of the model.

    Returns:
        str: Its name on the Hub.
    """
    row = TOWERS.get(config.model_type)
    for pattern, replacement in row.on_the_hub if row else ():
        name = re.sub(pattern, replacement, name)
    return name
