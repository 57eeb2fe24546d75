"""LLaVA (arXiv 2304.08485, with the MLP projector of 2310.03744) and LoRA (arXiv 2106.09685), as one would run them.

The library's ``LlavaForConditionalGeneration`` around the same two frozen bases: all patch tokens of the tower's last
hidden states but one, projected, in the place of the image tokens. PEFT's LoRA on linear layers of the language model
and the projector train; checkpoints are PEFT's. The text is that of the other arms.
"""

import copy

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, CLIPVisionModel, LlavaConfig, LlavaForConditionalGeneration

from adem_vl_hf.embedded.smollm2 import resolve_language_model
from adem_vl_hf.loading import arguments_for_bits, resolve_vision_tower
from adem_vl_hf.modeling.bases import load_language_model, load_vision_tower
from adem_vl_hf.modeling.processing_adem_vl import AdemVLProcessor
from adem_vl_hf.modeling.processor_parts import tokenizer_and_image_token

from .arm import Arm, count_trained

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LlavaInputs(AdemVLProcessor):
    """The house's processor with LLaVA's form of pixels: [I, 3, H, W], those of all rows in order, and no mask."""

    _auto_class = None

    def __call__(self, *args, **kwargs):
        """As ``AdemVLProcessor``; ``pixel_values`` holds only the images that are there."""
        batch = super().__call__(*args, **kwargs)
        mask = batch.pop("image_mask", None)
        if mask is not None:
            batch["pixel_values"] = batch["pixel_values"][mask]
        return batch

    @property
    def model_input_names(self):
        return ["input_ids", "attention_mask", "pixel_values"]


def _in_own_precision(projector: nn.Module, args: tuple) -> tuple:
    return (args[0].to(projector.linear_1.weight.dtype),)


def assemble(
    language_model: nn.Module,
    tower: nn.Module,
    image_token_id: int,
    rank: int = 64,
    targets: tuple[str, ...] = LINEARS,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.05,
    vision_feature_layer: int = -2,
):
    """The PEFT model around two loaded bases.

    Args:
        rank, targets: of LoRA, which linear layers get it. lora_alpha: default twice the rank, as LLaVA 1.5 has it.
    """
    config = LlavaConfig(
        # copies: the constructor resets the attention implementation of the configurations that it is given
        text_config=copy.deepcopy(language_model.config),
        vision_config=copy.deepcopy(tower.config),
        image_token_index=image_token_id,
        vision_feature_layer=vision_feature_layer,
        vision_feature_select_strategy="default",
        tie_word_embeddings=language_model.config.tie_word_embeddings,
    )
    with torch.device("meta"):  # no weights for what is replaced at once
        model = LlavaForConditionalGeneration(config)
    inner, device = model.model, language_model.get_input_embeddings().weight.device
    with device:
        # float32 beside bases of any precision, as LoRA's matrices
        inner.multi_modal_projector = type(inner.multi_modal_projector)(config)
    inner.multi_modal_projector.register_forward_pre_hook(_in_own_precision)
    inner.vision_tower, inner.language_model = tower.to(device), language_model.get_decoder()
    model.lm_head = language_model.get_output_embeddings()
    model.generation_config = copy.deepcopy(language_model.generation_config)
    model.is_loaded_in_4bit = getattr(language_model, "is_loaded_in_4bit", False)  # PEFT asks for it
    lora = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if lora_alpha is None else lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=rf"model\.language_model\..*\.({'|'.join(targets)})",
        modules_to_save=["multi_modal_projector"],
    )
    return get_peft_model(model, lora).eval()


def build(language_model, vision_tower, dtype=None, attn_implementation=None, bits=None, **sizes):
    """The model and its processor; sizes as of :func:`assemble`.

    Args:
        bits: 4 loads the language model as QLoRA (arXiv 2305.14314) does, None as it is. On a CPU with AVX512-BF16,
            bitsandbytes packs 4-bit weights at the first answer for a kernel without a backward: train before that.
    """
    text, tower = resolve_language_model(str(language_model)), resolve_vision_tower(str(vision_tower))
    arguments = {"dtype": dtype, "attn_implementation": attn_implementation}
    arguments = {name: value for name, value in arguments.items() if value is not None}
    _, image_token_id = tokenizer_and_image_token(text)
    language = load_language_model(text, **arguments, **arguments_for_bits(bits, dtype))
    model = assemble(language, load_vision_tower(tower, **arguments), image_token_id, **sizes)
    return model, LlavaInputs.from_base_pretrained(text, tower, _Layout(model.config))


class _Layout:
    """What ``from_base_pretrained`` of a processor asks of a configuration."""

    text_model_revision = vision_model_revision = None

    def __init__(self, config: LlavaConfig) -> None:
        self.text_config, self.vision_config = config.text_config, config.vision_config
        self.image_token_id, self.image_size = config.image_token_index, config.vision_config.image_size
        self.image_tokens = (self.image_size // config.vision_config.patch_size) ** 2


def count(text_config, vision_config, **sizes):
    """Projector and LoRA; everything gets a gradient."""
    with torch.device("meta"):
        bases = AutoModelForCausalLM.from_config(text_config), CLIPVisionModel(vision_config)
        return count_trained(assemble(*bases, 0, **sizes))


LLAVA_LORA = Arm(build, count)
