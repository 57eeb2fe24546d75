"""ADEM-VL for Hugging Face: a frozen LLM sees through a frozen CLIP tower with a few million trained numbers.

Importing this package registers its classes with the Auto classes, so that checkpoints load without remote code.
"""

import transformers
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from . import old_paths
from .modeling.configuration_adem_vl import AdemVLConfig
from .modeling.configuration_evlm import EvlmConfig
from .modeling.modeling_adem_vl import AdemVLForConditionalGeneration
from .modeling.modeling_evlm import EvlmForConditionalGeneration
from .modeling.pipeline import AdemVLImageToTextPipeline
from .modeling.processing_adem_vl import AdemVLProcessor
from .modeling.processing_evlm import EvlmProcessor

__version__ = "0.1.0"

old_paths.install()

for config, model, processor in (
    (AdemVLConfig, AdemVLForConditionalGeneration, AdemVLProcessor),
    (EvlmConfig, EvlmForConditionalGeneration, EvlmProcessor),
):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    AutoModelForImageTextToText.register(config, model, exist_ok=True)
    if hasattr(transformers, "AutoModelForMultimodalLM"):  # since Transformers 5: the any-to-any pipeline looks there
        transformers.AutoModelForMultimodalLM.register(config, model, exist_ok=True)
    AutoProcessor.register(config, processor, exist_ok=True)

__all__ = [
    "AdemVLConfig",
    "AdemVLForConditionalGeneration",
    "AdemVLImageToTextPipeline",
    "AdemVLProcessor",
    "EvlmConfig",
    "EvlmForConditionalGeneration",
    "EvlmProcessor",
]
