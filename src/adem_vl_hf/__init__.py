"""ADEM-VL for Hugging Face: a frozen LLM sees through a frozen tower with a few million trained numbers.

Importing this package registers its classes with the Auto classes, so that checkpoints load without remote code. The
classes themselves, and Transformers, are imported when they are used.
"""

from typing import TYPE_CHECKING

from . import auto_classes, old_paths
from .lazy import lazy_exports

if TYPE_CHECKING:
    from .modeling.configuration_adem_vl import AdemVLConfig
    from .modeling.configuration_evlm import EvlmConfig
    from .modeling.modeling_adem_vl import AdemVLForConditionalGeneration
    from .modeling.modeling_evlm import EvlmForConditionalGeneration
    from .modeling.pipeline import AdemVLImageToTextPipeline
    from .modeling.processing_adem_vl import AdemVLProcessor
    from .modeling.processing_evlm import EvlmProcessor

__version__ = "0.1.0"

__all__ = [
    "AdemVLConfig",
    "AdemVLForConditionalGeneration",
    "AdemVLImageToTextPipeline",
    "AdemVLProcessor",
    "EvlmConfig",
    "EvlmForConditionalGeneration",
    "EvlmProcessor",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "modeling.configuration_adem_vl": ["AdemVLConfig"],
        "modeling.configuration_evlm": ["EvlmConfig"],
        "modeling.modeling_adem_vl": ["AdemVLForConditionalGeneration"],
        "modeling.modeling_evlm": ["EvlmForConditionalGeneration"],
        "modeling.pipeline": ["AdemVLImageToTextPipeline"],
        "modeling.processing_adem_vl": ["AdemVLProcessor"],
        "modeling.processing_evlm": ["EvlmProcessor"],
    },
)

old_paths.install()
auto_classes.install()
