"""How much memory does a training need? Computed for four sizes of language model, without any weights.

python benchmarks/memory.py        # writes benchmarks/results/memory.json; takes a minute
python benchmarks/write_tables.py  # puts the table into docs/your_data.md

The models are built on the meta device, where tensors have shapes and no numbers. One forward pass there shows which
tensors autograd keeps for the backward pass. The peak of a step is taken to be the weights, the adapter with its
gradients and Adam's two moments (float32), what autograd keeps, and the logits once more.
"""

import argparse
from typing import Any

import tables
import torch
from transformers import AttentionInterface, CLIPVisionConfig, LlamaConfig

from adem_vl_hf import AdemVLConfig, AdemVLForConditionalGeneration
from adem_vl_hf.modeling.configuration_base import CLIP_VIT_L14

GIB = 2**30
TEXT = 256  # tokens of a row
# width, width of the MLP, layers, heads, heads of keys and values, vocabulary: Llama 3.2 and LLaMA
SIZES = {
    "1B": (2048, 8192, 16, 32, 8, 128256),
    "3B": (3072, 8192, 28, 24, 8, 128256),
    "7B": (4096, 11008, 32, 32, 32, 32000),
    "13B": (5120, 13824, 40, 40, 40, 32000),
}
# bytes of a parameter of a linear layer of the language model; NF4 has a scale of 8 bits for each 64 parameters, and
# one of 32 bits for each 256 of those (arXiv 2305.14314)
BITS = {"bf16": 2.0, "8 bits": 1.0, "4 bits": 0.5 + (8 / 64 + 32 / (64 * 256)) / 8}


def flash_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attend as the fused kernels of a GPU do, which keep neither scores nor weights.

    Args:
        module (torch.nn.Module): the layer.
        query (torch.Tensor): [B, heads, T, head width].
        key (torch.Tensor): [B, heads of keys, T, head width].
        value (torch.Tensor): the same.
        *_ (Any): the mask, which is causal.
        **__ (Any): scale and dropout, which change no shape.

    Returns:
        [B, T, heads, head width], and no weights.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)[0]
    return out.transpose(1, 2), None


def build(size: str) -> AdemVLForConditionalGeneration:
    """Build a model of a size on the meta device, in bfloat16 with its adapter in float32.

    Args:
        size (str): a key of ``SIZES``.

    Returns:
        The model.
    """
    width, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    text = LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=vocabulary > 100000,
    )  # fmt: skip
    # without the class token, which is a token of the text: where it stands is a number, and there are none here
    config = AdemVLConfig(text_config=text, vision_config=CLIPVisionConfig(**CLIP_VIT_L14), use_cls_token=False)
    with torch.device("meta"):
        model = AdemVLForConditionalGeneration._from_config(config, attn_implementation={"text_config": "kept"})
    model.language_model.to(torch.bfloat16)
    model.vision_tower.to(torch.bfloat16)
    return model.train()


def kept_by_autograd(model: AdemVLForConditionalGeneration, rows: int, checkpointing: bool) -> int:
    """Count what autograd keeps of a forward pass for the backward pass.

    Args:
        model (AdemVLForConditionalGeneration): the model, on the meta device.
        rows (int): rows of a batch, each with an image.
        checkpointing (bool): whether layers are computed again in the backward pass.

    Returns:
        Bytes, without parameters.
    """
    if checkpointing:
        model.gradient_checkpointing_enable()
    else:
        model.gradient_checkpointing_disable()
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other storage takes its place
        return tensor

    ids = torch.zeros(rows, TEXT, dtype=torch.long, device="meta")
    side = model.config.image_size
    pixels = torch.zeros(rows, 3, side, side, device="meta", dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        mask = torch.ones(rows, 1, TEXT, TEXT, dtype=torch.bool, device="meta")  # of causal attention, already made
        logits = model(input_ids=ids, pixel_values=pixels, attention_mask=mask).logits  # [rows, TEXT, vocabulary]
        torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())
    return sum(storage.nbytes() for storage in kept.values())


def measure(size: str) -> dict[str, Any]:
    """Compute the memory of one size.

    Args:
        size (str): a key of ``SIZES``.

    Returns:
        GiB: of the weights by precision, of the adapter in training, and what one row adds, with and without
        checkpointing.
    """
    model = build(size)
    linear = sum(m.weight.numel() for name, m in model.language_model.named_modules()
                 if isinstance(m, torch.nn.Linear) and name != "lm_head")  # fmt: skip
    frozen = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("adapter."))
    adapter = sum(p.numel() for p in model.adapter.parameters())
    rows = {}
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        one, two = (kept_by_autograd(model, rows, checkpointing) for rows in (1, 2))
        rows[name] = {"row": (two - one) / GIB, "fixed": (2 * one - two) / GIB}
    layers = model.config.text_config.num_hidden_layers
    rows["checkpointing"]["row"] += rows["plain"]["row"] / layers  # the one that is being computed again
    return {
        "weights": {name: (2 * (frozen - linear) + linear * each) / GIB for name, each in BITS.items()},
        "adapter": 16 * adapter / GIB,
        "trainable_parameters": adapter,
        "logits": TEXT * model.config.text_config.vocab_size * 4 / GIB,
        **rows,
    }


def peak(found: dict[str, Any], precision: str, mode: str, rows: int) -> float:
    """Add up the peak of a training step.

    Args:
        found (dict[str, Any]): what ``measure`` returned.
        precision (str): a key of ``BITS``.
        mode (str): "plain" or "checkpointing".
        rows (int): rows of a batch.

    Returns:
        GiB.
    """
    kept = found[mode]["fixed"] + rows * (found[mode]["row"] + found["logits"])
    return found["weights"][precision] + found["adapter"] + kept


def table(results: dict[str, Any]) -> str:
    """A row for each size.

    Args:
        results (dict[str, Any]): what ``measure`` returned, by size.

    Returns:
        The table, in GiB.
    """
    head = ["language model", *(f"weights, {name}" for name in BITS)]
    head += [f"training, {name}" for name in BITS] + [f"{name}, checkpointing" for name in BITS] + ["each further row"]
    rows = []
    for size, found in results.items():
        cells = [f"{found['weights'][name]:.1f}" for name in BITS]
        cells += [f"{peak(found, name, mode, 1):.1f}" for mode in ("plain", "checkpointing") for name in BITS]
        more = [found[mode]["row"] + found["logits"] for mode in ("plain", "checkpointing")]
        rows.append([size, *cells, " / ".join(f"{value:.2f}" for value in more)])
    return tables.markdown(head, rows)


def sections() -> dict[str, str]:
    """The table of docs/your_data.md.

    Returns:
        The text by the name of the section.
    """
    results = tables.load("memory")
    return {"memory table": table(results) if results else tables.NOT_MEASURED}


def main() -> None:
    """Run the command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    AttentionInterface.register("kept", flash_attention)
    results = {size: measure(size) for size in SIZES}
    tables.save("memory", results)
    print(sections()["memory table"])


if __name__ == "__main__":
    main()
