"""Loads the two parts of a processor from the two bases: the tokenizer and the image processor.

In reading order: the tokenizer, the token that stands for images, what is saved, the image processor.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    CLIPImageProcessor,
    PreTrainedTokenizerBase,
)
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import cached_file, logging

from .arguments import HUB_ARGUMENTS
from .field_values import described, fits, shown
from .quantization import split_gguf
from .reading import errors_naming
from .towers import TOWERS, side

logger = logging.get_logger(__name__)
MOST_PIXELS_A_SIDE, MOST_IMAGE_TOKENS = 2**13, 2**16
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")  # Transformers 5 saves the first, 4.57 both
IMAGE_PROCESSOR_FILES = PROCESSOR_FILES[::-1]  # a vision tower has the second more often, so it is asked for first


def load_tokenizer(language_model: str, **hub: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a language model.

    Args:
        language_model (str): A folder, the id of a repository on the Hub, or the path of a GGUF file in either. The
            tokenizer inside a GGUF file is taken.
        **hub (Any): Hub arguments: ``token``, ``revision``, ``subfolder``, ``cache_dir``, ``local_files_only``,
            ``force_download``.

    Returns:
        PreTrainedTokenizerBase: The tokenizer.

    Raises:
        ValueError: There is no tokenizer that can be loaded.
    """
    where, file = split_gguf(language_model)
    gguf = {} if file is None else {"gguf_file": file}
    try:
        with errors_naming(where):
            return AutoTokenizer.from_pretrained(where, trust_remote_code=False, **hub, **gguf)
    except (OSError, ValueError, ImportError) as error:  # depends on the files and on the version of Transformers
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"the language model {language_model!r} has no tokenizer that can be loaded ({reason}); put its tokenizer "
            "files beside its weights, or pass image_token_id to go without one"
        ) from error


def choose_image_token(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None = None) -> str:
    """Choose a token that can stand for images, because ordinary text never contains it.

    Args:
        tokenizer (PreTrainedTokenizerBase): The tokenizer. Nothing is added to its vocabulary.
        vocab_size (int | None): How many tokens the language model embeds. The others are not chosen. None means all.

    Returns:
        str: A reserved or unused special token, or the unknown token if there is none.

    Raises:
        ValueError: The tokenizer has neither.
    """
    in_use = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    added = tokenizer.added_tokens_decoder.items()
    known = [token for number, token in added if vocab_size is None or number < vocab_size]
    specials = [token.content for token in known if token.special and token.content not in in_use]
    for pattern in ("image", "reserved|unused|extra", "file|repo|pad", ""):
        for token in specials:
            if re.search(pattern, token.lower()):
                return token
    if tokenizer.unk_token is None:
        raise ValueError(f"{tokenizer.name_or_path}: no reserved token to stand for an image; pass image_token")
    return tokenizer.unk_token


def tokenizer_and_image_token(
    language_model: str, vocab_size: int | None = None, **hub: Any
) -> tuple[PreTrainedTokenizerBase, int]:
    """Load the tokenizer of a language model, and choose the token that will stand for images.

    Args:
        language_model (str): The language model, as for ``load_tokenizer``.
        vocab_size (int | None): How many tokens the language model embeds. None means all of the tokenizer.
        **hub (Any): Hub arguments, as for ``load_tokenizer``.

    Returns:
        tuple[PreTrainedTokenizerBase, int]: The tokenizer and the id of the image token.
    """
    tokenizer = load_tokenizer(language_model, **hub)
    return tokenizer, tokenizer.convert_tokens_to_ids(choose_image_token(tokenizer, vocab_size))


def check_saved(folder: Path) -> None:
    """Refuse a folder without the file that every processor saves. A name that is no folder may be one on the Hub.

    Without it, the prompt and the image tokens would be other ones: the library's pipelines save the rest alone.

    Args:
        folder (Path): The folder of a checkpoint.

    Raises:
        OSError: The file is missing.
    """
    if folder.is_dir() and not (folder / PROCESSOR_FILES[0]).is_file():
        raise OSError(
            f"{folder} has no {PROCESSOR_FILES[0]}: save the processor of the model there, with "
            "processor.save_pretrained, or make it anew from its bases, with from_base_pretrained"
        )


def try_processor(processor: Any, name: str) -> None:
    """Use a processor that was read from files once, so that a value that cannot be is refused before it is in use.

    Args:
        processor (Any): The processor.
        name (str): The folder or the id of the repository that it was read from, for the error.

    Raises:
        ValueError: A value in its files is of the wrong type or out of its range.
    """
    limit = processor.tokenizer.model_max_length
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 1:
        raise ValueError(f"{name}/tokenizer_config.json: model_max_length is {limit!r}; it must be at least 1")
    tokens = processor.image_tokens
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 0 <= tokens <= MOST_IMAGE_TOKENS:
        raise ValueError(
            f"{name}/processor_config.json: image_tokens is {tokens!r}; it must be from 0 to {MOST_IMAGE_TOKENS:,}"
        )
    prompt = processor.prompt
    if not fits(prompt, str | None):
        raise ValueError(f"{name}/processor_config.json: prompt is {shown(prompt)}; it must be {described(str | None)}")
    images = processor.image_processor
    with errors_naming(f"{name}/preprocessor_config.json"):
        for field in ("size", "crop_size"):
            edges = _edges(getattr(images, field, None) or {})
            if any(not isinstance(pixels, int) or not 1 <= pixels <= MOST_PIXELS_A_SIDE for pixels in edges.values()):
                raise ValueError(
                    f"{name}/preprocessor_config.json: {field} is {edges}; each must be from 1 to "
                    f"{MOST_PIXELS_A_SIDE:,}"
                )
        if images is not None:
            images(images=Image.new("RGB", (8, 8)), return_tensors="pt")
    with errors_naming(f"{name}/tokenizer.json"):
        processor.tokenizer.decode(processor.tokenizer("a picture of")["input_ids"])


def keep_inside(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """See to it that a tokenizer's special tokens have a row in the embedding of its language model.

    Many tokenizers have a padding token that was added without one. Padding is masked, so that any token will do.

    Args:
        tokenizer (PreTrainedTokenizerBase): The tokenizer. Its padding token may be replaced by its end of sequence.
        vocab_size (int): How many tokens the language model embeds.

    Raises:
        ValueError: The beginning or the end of sequence has no row there.
    """
    for name in ("bos_token", "eos_token"):
        number = getattr(tokenizer, f"{name}_id")
        if number is not None and number >= vocab_size:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has the {name} {getattr(tokenizer, name)!r} with the id "
                f"{number}, and its language model embeds {vocab_size} tokens: take the tokenizer that the model was "
                f"trained with, or set its {name} to a token below"
            )
    if tokenizer.eos_token_id is None:
        logger.warning(
            f"the tokenizer {tokenizer.name_or_path!r} has no end of sequence, so that no answer can be trained: set "
            "its eos_token to the token that ends a text of the language model"
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= vocab_size:
        tokenizer.pad_token = tokenizer.eos_token


def tidy_saved_tokenizer(folder: str | os.PathLike[str]) -> None:
    """Rewrite what Transformers 5 saves with a tokenizer.

    The class name "TokenizersBackend", which 4.57 cannot load, becomes "PreTrainedTokenizerFast", which both know, and
    a list of extra special tokens gets its older name, because 4.57 expects a dictionary under the new one. How the
    tokenizer was loaded (``local_files_only``, ...) is left out.

    Args:
        folder (str | os.PathLike[str]): The folder of the tokenizer. Nothing happens if it has none.
    """
    path = Path(folder) / "tokenizer_config.json"
    if not path.is_file():
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    fields = {name: value for name, value in saved.items() if name not in (*HUB_ARGUMENTS, "is_local")}
    if fields.get("tokenizer_class") == "TokenizersBackend":
        fields["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(fields.get("extra_special_tokens"), list):
        fields["additional_special_tokens"] = fields.pop("extra_special_tokens")
    if fields != saved:
        path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def bring_code(folder: str | os.PathLike[str], into: str | os.PathLike[str]) -> None:
    """Complete the code of a checkpoint that a processor is saved into.

    ``Trainer(push_to_hub=True)`` copies configuration and weights of a checkpoint into the folder that it uploads,
    leaves the code behind, and has the processor saved there.

    Args:
        folder (str | os.PathLike[str]): The folder. Nothing happens unless it has a ``config.json`` that names code
            which is not there.
        into (str | os.PathLike[str]): The folder that the code is copied to, from where it goes to ``folder``.
    """
    config, here = Path(folder) / "config.json", Path(__file__).parent
    fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    places = fields.get("auto_map") if isinstance(fields, dict) else None
    for place in places.values() if isinstance(places, dict) else ():
        module = str(place).partition(".")[0]
        entry = here / f"{module}.py"
        # a path, or code of another repository, is none of ours
        if not module.isidentifier() or (Path(folder) / entry.name).is_file() or not entry.is_file():
            continue
        for path in (entry, *map(Path, get_relative_import_files(str(entry)))):
            shutil.copyfile(path, Path(into) / path.name)


def image_side(vision_tower: str | None, config: Any, **hub: Any) -> int:
    """Say which images a vision tower gets, where nobody says it.

    A tower that takes images of any size gets those that its image processor makes. DINOv2's configuration says 518 px,
    for example, and its image processor 224.

    Args:
        vision_tower (str | None): A folder or the id of a repository on the Hub. None means that nobody knows it.
        config (Any): The configuration of the tower.
        **hub (Any): Hub arguments, as for ``load_tokenizer``.

    Returns:
        int: The side of the images in pixels.
    """
    own = side(config.image_size)
    if vision_tower is None or not TOWERS[config.model_type].any_size:
        return own
    try:
        there = _has_image_processor(vision_tower, hub)
    except OSError:
        return own
    return (_made_side(_image_processor(vision_tower, hub)) or own) if there else own


def load_image_processor(vision_tower: str, config: Any, **hub: Any) -> BaseImageProcessor:
    """Load the image processor of a vision tower.

    Args:
        vision_tower (str): A folder, the id of a repository on the Hub, or a name in open_clip's spelling.
        config (Any): The configuration of the model. An image processor that makes images of another size than its
            ``image_size`` is set to that size, with the proportion of its crop. If the tower has no image processor,
            images are resized without cropping, as the authors do.
        **hub (Any): Hub arguments, as for ``load_tokenizer``.

    Returns:
        BaseImageProcessor: The image processor.

    Raises:
        OSError: The files of the vision tower cannot be reached, so that nobody knows how its images are prepared.
    """
    wanted = config.image_size
    square = {"height": wanted, "width": wanted}
    if not _has_image_processor(vision_tower, hub):
        mean, std = TOWERS[config.vision_config.model_type].normalization
        return CLIPImageProcessor(size=square, do_center_crop=False, image_mean=mean, image_std=std)
    processor = _image_processor(vision_tower, hub)
    made = _made_side(processor)
    if made == wanted:
        return processor
    if made is None or not processor.do_center_crop:
        sizes: dict[str, Any] = {"size": square, "do_center_crop": False, "do_resize": True}
    else:
        size = {edge: round(pixels * wanted / made) for edge, pixels in _edges(processor.size).items()}
        sizes = {"size": size, "crop_size": square}
    return _image_processor(vision_tower, hub | sizes)


def _image_processor(vision_tower: str, arguments: Mapping[str, Any]) -> BaseImageProcessor:
    """Load the image processor of a vision tower; errors name the tower, and code beside it is never run."""
    with errors_naming(f"the image processor of {vision_tower}"):
        return AutoImageProcessor.from_pretrained(vision_tower, trust_remote_code=False, **arguments)


def _edges(size: Any) -> dict[str, int]:
    """Turn a size of an image processor, of any version, into a dictionary of what it says."""
    size = size if isinstance(size, Mapping) else vars(size)
    return {edge: pixels for edge, pixels in size.items() if pixels is not None}


def _made_side(processor: BaseImageProcessor) -> int | None:
    """Read the side of the images that an image processor makes; None if they are not all of one square size."""
    cropped = getattr(processor, "do_center_crop", False)
    if not (cropped or getattr(processor, "do_resize", True)):
        return None
    edges = _edges(processor.crop_size if cropped else processor.size)
    return edges["height"] if "height" in edges and edges["height"] == edges.get("width") else None


def _has_image_processor(vision_tower: str, hub: Mapping[str, Any]) -> bool:
    """Look whether a vision tower says how images are prepared for it; OSError where it cannot be reached."""
    if Path(vision_tower).is_dir():
        return any((Path(vision_tower) / hub.get("subfolder", "") / name).is_file() for name in IMAGE_PROCESSOR_FILES)
    if ":" in vision_tower:
        return False
    return any(
        cached_file(vision_tower, name, _raise_exceptions_for_missing_entries=False, **hub) is not None
        for name in IMAGE_PROCESSOR_FILES
    )
