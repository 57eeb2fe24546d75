"""Models that see by the tokens of an image, of the shapes that people fine-tune, with random weights and LoRA.

``smolvlm`` has the shape of SmolVLM-256M (arXiv 2504.05299) and ``qwen2_vl`` that of Qwen2-VL (arXiv 2409.12191), the
second with a language model of SmolLM2's size and a vision tower of SigLIP-base's. Both are the library's own classes.
Only LoRA in the linear layers of the language model trains, as both come with projectors that are trained already. The
text is that of ``arms``; every row has exactly one image.
"""

from typing import Any

import torch
from arms.llava_lora import LINEARS, LlavaInputs
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPImageProcessor,
    LlamaConfig,
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

# width, width of the MLP, blocks and heads of SigLIP-base (arXiv 2303.15343)
SIGLIP_BASE = (768, 3072, 12, 12)
SMOLVLM_SIDE, SMOLVLM_PATCH, SMOLVLM_SHUFFLE, SMOLVLM_VOCABULARY = 512, 16, 4, 49280
QWEN_SIDE, QWEN_PATCH, QWEN_MERGE, QWEN_FRAMES = 224, 14, 2, 2  # a still image is two equal frames
TOKENS = 64  # of an image, in both


class SmolVLMInputs(LlavaInputs):
    """Pixels in SmolVLM's form: [B, 1, 3, H, W]."""

    def __call__(self, *args, **kwargs):
        """As ``AdemVLProcessor``, of rows with one image each."""
        batch = super().__call__(*args, **kwargs)
        batch["pixel_values"] = batch["pixel_values"].unsqueeze(1)
        return batch


class Qwen2VLInputs(LlavaInputs):
    """Pixels in Qwen2-VL's form: the patches of all images, [B * patches, numbers of a patch], and their grids."""

    def __call__(self, *args, **kwargs):
        """As ``AdemVLProcessor``, of rows with one image each."""
        batch = super().__call__(*args, **kwargs)
        images = batch["pixel_values"]
        patches, height, width = Qwen2VLImageProcessor().patchify(images, QWEN_PATCH, QWEN_MERGE, QWEN_FRAMES)
        batch["pixel_values"] = patches.flatten(0, 1)
        batch["image_grid_thw"] = torch.tensor([[1, height, width]] * len(images))
        batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token_id).int()
        return batch

    @property
    def model_input_names(self):
        return [*super().model_input_names, "image_grid_thw", "mm_token_type_ids"]


def _processor(kind: type[LlavaInputs], language_model: str, side: int) -> LlavaInputs:
    size = {"height": side, "width": side}
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    return kind(CLIPImageProcessor(size=size, do_center_crop=False), tokenizer, image_tokens=TOKENS)


def _with_lora(
    kind: type[PreTrainedModel], config: Any, processor: LlavaInputs, rank: int, setting: dict[str, Any]
) -> PeftModel:
    """The model with random weights, and LoRA as ``arms.llava_lora`` has it."""
    dtype, attention = setting.get("dtype"), setting.get("attn_implementation")
    # the tower, in which nothing trains, runs forward alone: there the fused attention is the faster one on a CPU, too
    parts = {} if attention is None else {"attn_implementation": {"text_config": attention, "vision_config": "sdpa"}}
    model = kind._from_config(config, dtype=dtype, **parts)
    tokenizer = processor.tokenizer
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=processor.pad_token_id)
    targets = rf"model\.(language|text)_model\..*\.({'|'.join(LINEARS)})"
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=targets)
    return get_peft_model(model, lora).eval()


def smolvlm(
    language_model: str, rank: int, vision: tuple[int, int, int, int] = SIGLIP_BASE, **setting: Any
) -> tuple[PeftModel, LlavaInputs]:
    """A model of SmolVLM-256M's shape: 512 px, of which pixel shuffle makes 64 tokens, and no image splitting.

    Args:
        language_model (str): the folder of a Llama, whose shape and tokenizer are taken.
        rank (int): of LoRA.
        vision (tuple[int, int, int, int]): width, width of the MLP, blocks and heads of the vision tower.
        **setting (Any): ``dtype`` and ``attn_implementation``.

    Returns:
        The model, in evaluation mode, and its processor.
    """
    processor = _processor(SmolVLMInputs, language_model, SMOLVLM_SIDE)
    text = AutoConfig.from_pretrained(language_model)
    text.update({"vocab_size": max(SMOLVLM_VOCABULARY, text.vocab_size), "tie_word_embeddings": False})
    width, inner, blocks, heads = vision
    tower = {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": blocks, "num_attention_heads": heads,
        "image_size": SMOLVLM_SIDE, "patch_size": SMOLVLM_PATCH, "model_type": "smolvlm_vision",
    }  # fmt: skip
    config = SmolVLMConfig(
        text_config=text, vision_config=tower, scale_factor=SMOLVLM_SHUFFLE, image_token_id=processor.image_token_id
    )
    return _with_lora(SmolVLMForConditionalGeneration, config, processor, rank, setting), processor


def qwen2_vl(
    language_model: str, rank: int, vision: tuple[int, int, int, int] = SIGLIP_BASE, **setting: Any
) -> tuple[PeftModel, LlavaInputs]:
    """A model of Qwen2-VL's shape: 224 px in patches of 14, of which 2 x 2 make a token.

    Args:
        language_model (str): the folder of a Llama, whose shape and tokenizer are taken.
        rank (int): of LoRA.
        vision (tuple[int, int, int, int]): width, width of the MLP, blocks and heads of the vision tower.
        **setting (Any): ``dtype`` and ``attn_implementation``.

    Returns:
        The model, in evaluation mode, and its processor.
    """
    processor = _processor(Qwen2VLInputs, language_model, QWEN_SIDE)
    llama: LlamaConfig = AutoConfig.from_pretrained(language_model)
    shape = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings")  # fmt: skip
    half = llama.hidden_size // llama.num_attention_heads // 2
    rest = half - half // 4  # a quarter for time, as 16, 24 and 24 of 64 in Qwen2-VL
    sections = [half // 4, rest // 2, rest - rest // 2]
    text = {name: getattr(llama, name) for name in shape} | {
        "bos_token_id": llama.bos_token_id, "eos_token_id": llama.eos_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    }  # fmt: skip
    width, inner, blocks, heads = vision
    tower = {
        "embed_dim": width, "mlp_ratio": inner // width, "depth": blocks, "num_heads": heads,
        "hidden_size": llama.hidden_size, "patch_size": QWEN_PATCH, "spatial_merge_size": QWEN_MERGE,
        "temporal_patch_size": QWEN_FRAMES,
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text, vision_config=tower, image_token_id=processor.image_token_id, tie_word_embeddings=True
    )
    return _with_lora(Qwen2VLForConditionalGeneration, config, processor, rank, setting), processor
