"""The floor: the frozen language model and the same text, without vision. Nothing trains."""

import torch
from transformers import AutoModelForCausalLM, CLIPImageProcessor

from adem_vl_hf.data.sample import without_marks
from adem_vl_hf.embedded.smollm2 import resolve_language_model
from adem_vl_hf.modeling.bases import load_language_model
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor
from adem_vl_hf.modeling.processor_parts import load_tokenizer

from .arm import Arm, count_trained


class TextOnlyProcessor(AdemVLProcessor):
    """The house's processor, blind: pictures leave no pixels and no trace in the text."""

    _auto_class = None

    def __call__(self, images=None, text=None, suffix=None, videos=None, **kwargs):
        """As ``AdemVLProcessor``; ``images`` and ``videos`` are not looked at, marks are taken out of the text."""
        texts = [text] if isinstance(text, str) else text
        return super().__call__(text=[without_marks(one) for one in texts], suffix=suffix, **kwargs)


def build(language_model, vision_tower, dtype=None, attn_implementation=None):
    """The bare language model; the tower is not loaded."""
    text = resolve_language_model(str(language_model))
    arguments = {"dtype": dtype, "attn_implementation": attn_implementation}
    model = load_language_model(text, **{name: value for name, value in arguments.items() if value is not None})
    processor = TextOnlyProcessor(CLIPImageProcessor(), load_tokenizer(text), image_tokens=0)  # the first never asked
    return model.requires_grad_(False).eval(), processor


def count(text_config, vision_config):
    """Nothing."""
    with torch.device("meta"):
        return count_trained(AutoModelForCausalLM.from_config(text_config).requires_grad_(False))


FLOOR = Arm(build, count)
