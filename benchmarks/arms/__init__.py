"""ADEM-VL and its peers on the same frozen language model and tower.

``ARMS[name].build(language_model, vision_tower, **sizes)`` gives a model and a processor that
``adem_vl_hf.training.build_trainer`` trains and ``adem_vl_hf.evaluation.predict.predict`` asks;
``ARMS[name].count(text_config, vision_config, **sizes)`` its trained numbers. :func:`matched_sizes` makes those about
equal. The files are named for the arms; each says which paper it follows and in what it differs.
"""

from typing import Any

from adem_vl_hf.modeling.modeling_evlm import EvlmForConditionalGeneration
from adem_vl_hf.modeling.processing_evlm import EvlmProcessor

from .adem_vl_authors import ADEM_VL, ADEM_VL_AUTHORS
from .arm import Arm, of_house
from .floor import FLOOR
from .lavin import LAVIN
from .llama_adapter import LLAMA_ADAPTER
from .llava_lora import LLAVA_LORA
from .matched import MATCHED
from .memvp import MEMVP

ARMS: dict[str, Arm] = {
    "floor": FLOOR,
    "adem_vl": ADEM_VL,
    "adem_vl_authors": ADEM_VL_AUTHORS,
    "memvp": MEMVP,
    "lavin": LAVIN,
    "llama_adapter": LLAMA_ADAPTER,
    "llava_lora": LLAVA_LORA,
    "evlm": of_house(EvlmForConditionalGeneration, EvlmProcessor),
}


def matched_sizes(name: str) -> dict[str, Any]:
    """Sizes of an arm for the embedded bases, with about as many trained numbers as ADEM-VL's demo."""
    return dict(MATCHED[name])


__all__ = ["ARMS", "Arm", "matched_sizes"]
