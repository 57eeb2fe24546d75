"""What every arm offers: a model and its processor from two frozen bases, and its trained numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from adem_vl_hf.embedded.smollm2 import resolve_language_model
from adem_vl_hf.loading import resolve_vision_tower
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor


class Arm(NamedTuple):
    """One way to give a frozen language model sight.

    Args:
        build: from the folders or ids of the two bases, ``dtype`` and ``attn_implementation`` of both (or None) and
            the arm's sizes: the model, in evaluation mode, and its processor.
        count: from the two bases' configurations and the arm's sizes, without any weight: ``trained``, the numbers
            that get a gradient, and ``as_published``, those and the ones its authors count although they get none.
    """

    build: Callable[..., tuple[Any, Any]]
    count: Callable[..., dict[str, int]]


def count_trained(model: torch.nn.Module, unused: int = 0) -> dict[str, int]:
    """The two counts of a model, which may be on the meta device."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trained": trained, "as_published": trained + unused}


def of_house(
    model_class, processor_class=AdemVLProcessor, unused: Callable[[Any], int] = lambda config: 0, **fixed
) -> Arm:
    """An arm that is a ``FrozenBasesForConditionalGeneration``; its sizes are fields of its configuration.

    Args:
        unused: of a configuration, how many numbers the authors count that get no gradient. fixed: fields that make
            the arm what it is.
    """

    def build(language_model, vision_tower, dtype=None, attn_implementation=None, **sizes):
        text, tower = resolve_language_model(str(language_model)), resolve_vision_tower(str(vision_tower))
        model = model_class.from_base_pretrained(
            text, tower, dtype=dtype, attn_implementation=attn_implementation, **fixed, **sizes
        )
        return model, processor_class.from_base_pretrained(model.config.text_model_name_or_path, tower, model.config)

    def count(text_config, vision_config, **sizes):
        config = model_class.config_class(text_config=text_config, vision_config=vision_config, **fixed, **sizes)
        with torch.device("meta"):
            return count_trained(model_class(config), unused(config))

    return Arm(build, count)
