"""Language models of several families as GGUF files, with the names and orders of llama.cpp's own converter."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
import tiny
from safetensors.numpy import load_file
from transformers import AutoConfig, AutoTokenizer

# what the format calls a family
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe",
                 "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3"}  # fmt: skip


def write_gguf(folder: Path, path: Path, kind: gguf.GGMLQuantizationType | None = None) -> Path:
    """The language model of a folder and its tokenizer as one file; matrices and tables quantised as ``kind`` says."""
    config = AutoConfig.from_pretrained(folder)
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name(f"tiny {config.model_type}")
    add_shape(writer, config)
    add_tokenizer(writer, AutoTokenizer.from_pretrained(folder))
    for name, values in tensors(folder, config, architecture):
        if kind is None or values.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(values))
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_shape(writer: gguf.GGUFWriter, config) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(getattr(config, "rope_theta", None) or theta(config.rope_parameters))
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "num_experts", None):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)


def theta(rope_parameters: dict) -> float:
    """Gemma 3 has one for each kind of layer; the format carries that of its full attention."""
    return rope_parameters.get("full_attention", rope_parameters)["rope_theta"]


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer) -> None:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in tiny.SPECIALS else normal for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in backend["merges"]])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(3)


def tensors(folder: Path, config, architecture: str):
    """Every tensor under the format's name, as llama.cpp computes with it."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    stored = load_file(folder / "model.safetensors")
    experts = {}
    for key in sorted(stored, key=numbers):
        values = stored[key].astype(np.float32)
        if match := re.fullmatch(r"(.*\.experts)\.\d+(\..*)", key):
            experts.setdefault("".join(match.groups()), []).append(values)
            continue
        if architecture == "llama" and re.search("[qk]_proj", key):  # llama.cpp rotates neighbours, Transformers halves
            heads = config.num_attention_heads if "q_proj" in key else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        if architecture.startswith("gemma") and "norm" in key:
            values = values + 1  # Gemma multiplies by 1 + its weight
        yield names.get_name(key, try_suffixes=(".weight", ".bias")), values
    for key, parts in experts.items():
        yield names.get_name(key, try_suffixes=(".weight",)), np.stack(parts)


def numbers(key: str) -> list:
    """Layers and experts in their order: 10 behind 9."""
    return [int(part) if part.isdigit() else -1 for part in key.split(".")]
