"""The tokenizer of a language model, and which of its tokens stands for an image."""

import json
import re
from pathlib import Path

from transformers import AutoTokenizer

from .quantized_adem_vl import split_gguf


def choose_image_token(tokenizer) -> str:
    """A token inside the vocabulary that ordinary text never holds: a reserved or unused special token.

    Raises:
        ValueError: if the tokenizer has none and no unknown token either.
    """
    spoken_for = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    specials = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special and t.content not in spoken_for]
    for pattern in ("image", "reserved|unused|extra", "file|repo|pad", ""):
        for token in specials:
            if re.search(pattern, token.lower()):
                return token
    if tokenizer.unk_token is None:
        raise ValueError(f"{tokenizer.name_or_path}: no reserved token to stand for an image; pass image_token")
    return tokenizer.unk_token


def load_tokenizer(language_model: str, revision: str | None = None):
    """The tokenizer of a language model, or the one inside its GGUF file.

    Raises:
        ValueError: the folder or repository holds none that can be loaded.
    """
    where, file = split_gguf(language_model)
    gguf = {} if file is None else {"gguf_file": file}
    try:
        return AutoTokenizer.from_pretrained(where, revision=revision or "main", **gguf)
    except (OSError, ValueError, ImportError) as error:  # which one depends on the files and on the library's version
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"the language model {language_model!r} has no tokenizer that can be loaded ({reason}); put its tokenizer "
            "files beside its weights, or pass image_token_id to go without one"
        ) from error


def tokenizer_and_image_token(language_model: str, revision: str | None = None):
    """The tokenizer of a language model and the id of the token that will stand for images."""
    tokenizer = load_tokenizer(language_model, revision)
    return tokenizer, tokenizer.convert_tokens_to_ids(choose_image_token(tokenizer))


def name_tokenizer_class(folder) -> None:
    """Have a saved tokenizer name its class as Transformers 4.57 and 5 both know it; 5 writes a name of its own."""
    path = Path(folder) / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
