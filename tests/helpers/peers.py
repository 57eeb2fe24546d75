"""Tiny models of the comparison arms (benchmarks/arms), and rows with and without pictures, for the tests of both."""

import scripts
import tiny
import torch

arms = scripts.package("arms")
ADEM_VL = {"projector_dim": 8, "vision_adapter_dim": 4, "vision_adapter_dropout": 0.0, **tiny.SHOWING}
SIZES = {
    "floor": {},
    "adem_vl": ADEM_VL,
    "adem_vl_authors": ADEM_VL,
    "memvp": {**ADEM_VL, "score_dropout": 0.0},
    "lavin": {"projector_dim": 8, "adapter_dropout": 0.0, "routing_temperature": 1.0},
    "llama_adapter": {"projector_dim": 8, "prompt_layers": 2},
    "llava_lora": {"rank": 2, "lora_dropout": 0.0},
    "evlm": {"media_tokens": 2},
}
ALL = list(arms.ARMS)
TRAINED = [name for name in ALL if name != "floor"]
PICTURES = [tiny.picture(0), None, tiny.picture(1)]
PROMPTS = ["a photo of", "two birds flying over the sea", "hello"]
ANSWERS = [" a cat", " yes", " a dog on the grass"]


def fresh(bases, name, **settings):
    """Model and processor as they are before training."""
    torch.manual_seed(0)
    return arms.ARMS[name].build(bases / "llama", bases / "clip", **{**SIZES[name], **settings})


@torch.no_grad()
def perturb(model, std=0.3):
    """Random numbers for everything that trains."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    return model


def build(bases, name, **settings):
    """Model and processor, with an adapter that shows."""
    model, processor = fresh(bases, name, **settings)
    return perturb(model), processor


def batch(processor, rows=slice(None), answers=True, **options):
    """The rows as the processor makes them of one call, with labels where there are ``answers``."""
    suffix = ANSWERS[rows] if answers else None
    return dict(processor(images=PICTURES[rows], text=PROMPTS[rows], suffix=suffix, **options))


def positions(inputs):
    """As ``generate`` counts them."""
    return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)


@torch.no_grad()
def logits(model, inputs, **kwargs):
    """[B, T, vocabulary]."""
    return model(**inputs, **kwargs).logits
