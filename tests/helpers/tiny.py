"""Tiny random bases, models and inputs that the tests share, and the golden files as bases that can be loaded."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from adem_vl_hf import AdemVLForConditionalGeneration
from adem_vl_hf.modeling.labels import NOT_SUPERVISED
from adem_vl_hf.modeling.trained_in_base import lora_parameters

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
SPECIALS = ["<unk>", "<s>", "</s>", "<pad>", "<reserved_0>"]
IMAGE_TOKEN_ID = SPECIALS.index("<reserved_0>")
CORPUS = ["a photo of a cat", "a photo of a dog on the grass", "two birds flying over the sea", "Image: hello world"]
TEXT_WIDTH, VISION_WIDTH, GRID, IMAGE_SIZE = 32, 24, 4, 16
# alpha and beta of 1, so that the fused term shows beside tiny random weights
SHOWING = {"fusion_scale": 1.0, "visual_scale": 1.0}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few lines."""
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS * 20, trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, additional_special_tokens=["<reserved_0>"],
        model_input_names=["input_ids", "attention_mask"], **names,
    )  # fmt: skip


def save_language_model(folder: Path, model_type: str, seed: int = 0, **fields) -> Path:
    """A causal LM of three layers, of any family, with its tokenizer."""
    words = tokenizer()
    torch.manual_seed(seed)
    shape = {
        "vocab_size": len(words), "hidden_size": TEXT_WIDTH, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, "initializer_range": 0.2,
    }  # fmt: skip
    config = AutoConfig.for_model(model_type, **{**shape, **fields})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_llama(folder: Path, seed: int = 0, **fields) -> Path:
    """A Llama of three layers with its tokenizer."""
    return save_language_model(folder, "llama", seed, **fields)


def package_blocker(folder: Path) -> str:
    """A PYTHONPATH, this process's own included, under which ``adem_vl_hf`` cannot be imported."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'adem_vl_hf':\n"
        "            raise ImportError('adem_vl_hf is not installed here')\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def clip_config(**fields) -> CLIPVisionConfig:
    """Three blocks on a 4 x 4 grid."""
    shape = {
        "hidden_size": VISION_WIDTH, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": IMAGE_SIZE, "patch_size": IMAGE_SIZE // GRID, "projection_dim": 16,
        "initializer_range": 0.2, "initializer_factor": 5.0,
    }  # fmt: skip
    return CLIPVisionConfig(**{**shape, **fields})


def save_clip(folder: Path, seed: int = 0, **fields) -> Path:
    """A CLIP tower with its image processor, its keys as on the Hub (``vision_model.``), which every version reads."""
    torch.manual_seed(seed)
    CLIPVisionModel(clip_config(**fields)).save_pretrained(folder)
    to_hub_layout(folder / "model.safetensors")
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(size=side, do_center_crop=False).save_pretrained(folder)
    return folder


def to_hub_layout(path: Path) -> None:
    """Transformers 5.16 and later save the tower without the prefix."""
    prefix = "vision_model."
    tensors = {prefix + name.removeprefix(prefix): tensor for name, tensor in load(path.read_bytes()).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def build(bases: Path, language_model: str = "llama", **fields) -> AdemVLForConditionalGeneration:
    """A model on ``bases/llama`` (or another folder there) and ``bases/clip`` whose adapter shows."""
    fields = {"projector_dim": 8, "vision_adapter_dim": 4, "vision_adapter_dropout": 0.0, **SHOWING, **fields}
    two = bases / language_model, bases / "clip"
    return perturb(AdemVLForConditionalGeneration.from_base_pretrained(*two, **fields))


def language_model(bases: Path) -> PreTrainedModel:
    """The frozen language model alone, as it was saved."""
    return AutoModelForCausalLM.from_pretrained(bases / "llama").eval()


@torch.no_grad()
def perturb(model: AdemVLForConditionalGeneration, seed: int = 1, std: float = 0.3) -> AdemVLForConditionalGeneration:
    """Random numbers for every trained tensor: where some are zero, lost or mixed-up images would go unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in (*model.adapter.parameters(), *lora_parameters(model.language_model)):
        parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


def pictures(number: int, side: int = IMAGE_SIZE, seed: int = 2) -> torch.Tensor:
    """[number, 3, side, side]."""
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(seed))


def picture(seed: int = 0) -> Image.Image:
    """A picture of random pixels, not square."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8))


def batch(lengths: list[int], images: list[bool], side: str = "right", seed: int = 4) -> dict[str, torch.Tensor]:
    """Rows of random tokens, ``<s> <reserved_0> ...`` with an image, padded at ``side``; the last three supervised.

    With seeds such as 3 attention hesitates between two words, and the last bits decide (see ``closeness.py``).
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), 3)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, NOT_SUPERVISED)
    for row, (length, has_image) in enumerate(zip(lengths, images, strict=True)):
        start = 0 if side == "right" else max(lengths) - length
        tokens = torch.randint(5, 300, (length,), generator=generator)
        tokens[0] = 1
        if has_image:
            tokens[1] = IMAGE_TOKEN_ID
        ids[row, start : start + length] = tokens
        mask[row, start : start + length] = 1
        labels[row, start + length - 3 : start + length] = tokens[-3:]
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if any(images):
        inputs |= {"pixel_values": pictures(len(lengths)), "image_mask": torch.tensor(images)}
    return inputs


def row(inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One row of a batch, alone and without its padding."""
    kept = inputs["attention_mask"][index].bool()
    one = {name: inputs[name][index][kept][None] for name in ("input_ids", "attention_mask", "labels")}
    if "image_mask" in inputs and inputs["image_mask"][index]:
        one["pixel_values"] = inputs["pixel_values"][index][None]
    return one


def first(output) -> torch.Tensor:
    """What a layer says: some return a tuple, in some versions."""
    return output[0] if isinstance(output, tuple) else output


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the gradients of everything that has one, which are then cleared."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def golden_bases(name: str, folder: Path) -> dict:
    """Copy the golden bases ``name`` into ``folder``, complete; returns their settings (``meta.json``).

    The fixture lacks the tower's last block, on which nothing depends: it becomes random numbers here.
    """
    for base in ("llama", "clip"):
        shutil.copytree(GOLDEN / name / base, folder / base)
    path = folder / "clip" / "model.safetensors"
    tensors = load(path.read_bytes())
    last = json.loads((folder / "clip" / "config.json").read_text())["num_hidden_layers"] - 1
    torch.manual_seed(0)
    for key, tensor in list(tensors.items()):
        if f"layers.{last - 1}." in key:
            tensors[key.replace(f"layers.{last - 1}.", f"layers.{last}.")] = torch.randn_like(tensor)
    save_file(tensors, path, metadata={"format": "pt"})
    return json.loads((GOLDEN / name / "meta.json").read_text())


def base_flags(bases) -> list[str]:
    """The tiny bases as flags of ``adem-vl``."""
    return ["--language-model", str(bases / "llama"), "--vision-tower", str(bases / "clip")]
