"""The keyword arguments of the processor's call, sorted as Transformers sorts them.

One may be given flat (``max_length=64``), in the dict of its part (``text_kwargs={"max_length": 64}``), or in
``common_kwargs``; the tokenizer's own ``padding`` and ``max_length`` (those it was loaded with) come last.
"""

from collections.abc import Mapping
from typing import Any

from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

TEXT_DEFAULTS: dict[str, Any] = {
    "add_special_tokens": True,
    "max_length": None,
    "padding": True,
    "padding_side": None,
    "pad_to_multiple_of": None,
    "return_offsets_mapping": False,
    "return_tensors": "pt",
}
# what changes nothing here, and is passed by the library itself or by habit: nothing is ever cut, batches are padded
# anyway, the attention mask is always made, and offsets are those of the text as it was given
WITHOUT_EFFECT = {"truncation", "return_attention_mask", "return_text_replacement_offsets", "verbose"}
VIDEO_OPTIONS = {"num_frames", "fps"}
PARTS = ("text_kwargs", "images_kwargs", "audio_kwargs", "videos_kwargs")
logger = logging.get_logger(__name__)


def sort_options(given: Mapping[str, Any], tokenizer, image_processor) -> tuple[dict[str, Any], ...]:
    """The options of the text, complete, and those of the image processor and of videos that were given.

    Names that mean nothing to either are left out with a warning, as by the library's own processors.

    Raises:
        ValueError: for one that is given twice, for ``sanitize_control_tokens``, or for ``fps``.
    """
    flat = {name: value for name, value in given.items() if name not in (*PARTS, "common_kwargs")}
    flat = {**(given.get("common_kwargs") or {}), **flat}
    text: dict[str, Any] = dict(TEXT_DEFAULTS)
    pictures: dict[str, Any] = {}
    videos: dict[str, Any] = {}
    # for padding alone: a tokenizer that was loaded with a max_length refuses nothing that is longer
    loaded_with = {name: tokenizer.init_kwargs[name] for name in ("padding", "max_length") if _has(tokenizer, name)}
    text["padding"] = loaded_with.get("padding", text["padding"])
    text["padded_length"] = loaded_with.get("max_length")
    known_to_images = {*ImagesKwargs.__annotations__, *_names(image_processor)}
    for part, options, known in (
        ("text_kwargs", text, set(TEXT_DEFAULTS)),
        ("images_kwargs", pictures, known_to_images),
        ("videos_kwargs", videos, VIDEO_OPTIONS),
    ):
        nested = given.get(part) or {}
        for name in nested:
            if name in flat and name not in (given.get("common_kwargs") or {}):
                raise ValueError(f"{name} is given twice, in {part} and as an argument of its own; give it once")
        options.update({name: value for name, value in {**flat, **nested}.items() if name in known})
        _warn_of(set(nested) - known - WITHOUT_EFFECT)
    _warn_of(set(flat) - set(TEXT_DEFAULTS) - known_to_images - VIDEO_OPTIONS - WITHOUT_EFFECT)
    if videos.pop("fps", None) is not None:
        raise ValueError("fps: frames are chosen by their number; give num_frames")
    if given.get("sanitize_control_tokens"):
        raise ValueError(
            "sanitize_control_tokens=True is not supported: the marks it puts into the text would be read as text; "
            "take special tokens out of the conversation before it is given to the processor"
        )
    text["padded_length"] = text["max_length"] or text["padded_length"]
    pictures.pop("return_tensors", None)  # the pixels of all rows become one tensor here
    return text, pictures, videos


def _has(tokenizer, name: str) -> bool:
    return tokenizer.init_kwargs.get(name) is not None


def _names(image_processor) -> set[str]:
    """What this image processor takes beside what all do (declared since Transformers 5)."""
    return set(getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", ()))


def _warn_of(names: set[str]) -> None:
    for name in sorted(names):
        logger.warning_once(f"{name} is not an argument of this processor and is ignored")
