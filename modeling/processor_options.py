"""Sorts the options of a processor's call into those of the text, of the image processor and of videos."""

from collections.abc import Mapping
from typing import Any

from transformers import BaseImageProcessor, PreTrainedTokenizerBase
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .arguments import nearest
from .field_values import shown

logger = logging.get_logger(__name__)

TEXT_DEFAULTS: dict[str, Any] = {
    "add_special_tokens": True,
    "max_length": None,
    "padding": True,
    "padding_side": None,
    "pad_to_multiple_of": None,
    "return_offsets_mapping": False,
    "return_tensors": "pt",
}
# Accepted because Transformers and users pass them, and ignored: a text is never cut, a batch is always padded and has
# an attention mask, and offsets always count in the text as given.
WITHOUT_EFFECT = {"truncation", "return_attention_mask", "return_text_replacement_offsets", "verbose"}
# arguments of tokenizers that hold a text or change its meaning, and what is given here instead
LOST = {
    "text_pair": "give one text for each row",
    "text_target": "give the answer as suffix",
    "text_pair_target": "give the answer as suffix",
    "is_split_into_words": "give each text as a whole",
}
VIDEO_OPTIONS = {"num_frames", "fps"}  # fps is refused, by name
KNOWN_VALUES = {"padding": ("longest", "max_length", "do_not_pad"), "padding_side": ("left", "right")}
POSITIONAL = ("images", "text", "suffix", "videos")
ALIKE = 0.82  # of ``nearest``: "image" and "images", "max_lenght" and "max_length", and not "truncation_side"
GROUPS = ("text_kwargs", "images_kwargs", "audio_kwargs", "videos_kwargs")  # each a dict of options


def sort_options(
    given: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, image_processor: BaseImageProcessor
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort the keyword arguments of a call into options of the text, of the image processor and of videos.

    A name that none of the three knows is left out with a warning, as in Transformers' own processors, unless it is
    nearly one that the processor takes: ``image`` for ``images`` would make a row without its image.

    Args:
        given (Mapping[str, Any]): The keyword arguments, flat or in ``text_kwargs``, ``images_kwargs``,
            ``videos_kwargs`` and ``common_kwargs``. An option in ``common_kwargs`` may be given again elsewhere, which
            then counts.
        tokenizer (PreTrainedTokenizerBase): The tokenizer. The padding that it was loaded with is the default.
        image_processor (BaseImageProcessor): The image processor, which knows the names of its own options.

    Returns:
        tuple[dict[str, Any], dict[str, Any], dict[str, Any]]: All options of the text (those of ``TEXT_DEFAULTS``, and
        ``padded_length``, the length that ``padding="max_length"`` pads to), then the options given for the image
        processor, then those given for videos.

    Raises:
        ValueError: An option is given twice or misspelt, a text is given by another name, ``padding`` or
            ``padding_side`` has an unknown value, the length to pad to is missing, or ``sanitize_control_tokens`` or
            ``fps`` is given.
    """
    flat = {name: value for name, value in given.items() if name not in (*GROUPS, "common_kwargs")}
    flat = {**(given.get("common_kwargs") or {}), **flat}
    for name, remedy in LOST.items():
        if {**flat, **(given.get("text_kwargs") or {})}.get(name):
            raise ValueError(f"{name} would have no effect: {remedy}")
    text: dict[str, Any] = dict(TEXT_DEFAULTS)
    images: dict[str, Any] = {}
    videos: dict[str, Any] = {}
    # the max_length that a tokenizer was loaded with is the length to pad to, and never a limit
    loaded_with = {name: tokenizer.init_kwargs.get(name) for name in ("padding", "max_length")}
    text["padded_length"] = loaded_with["max_length"]
    if loaded_with["padding"] is not None:
        text["padding"] = loaded_with["padding"]
    known_to_images = {*ImagesKwargs.__annotations__, *_names_of(image_processor)}
    for group, options, known in (
        ("text_kwargs", text, set(TEXT_DEFAULTS)),
        ("images_kwargs", images, known_to_images),
        ("videos_kwargs", videos, VIDEO_OPTIONS),
    ):
        nested = given.get(group) or {}
        for name in nested:
            if name in flat and name not in (given.get("common_kwargs") or {}):
                raise ValueError(f"{name} is given twice, in {group} and as an argument of its own; give it once")
        options.update({name: value for name, value in {**flat, **nested}.items() if name in known})
        _pass_over(set(nested) - known - WITHOUT_EFFECT, known)
    given_values = {name for name, value in flat.items() if value is not None}  # pipelines give None for no audio
    all_known = {*TEXT_DEFAULTS, *known_to_images, *VIDEO_OPTIONS}
    _pass_over(given_values - all_known - WITHOUT_EFFECT, {*all_known, *POSITIONAL, *GROUPS})
    if videos.pop("fps", None) is not None:
        raise ValueError("fps: frames are chosen by their number; give num_frames")
    if given.get("sanitize_control_tokens"):
        raise ValueError(
            "sanitize_control_tokens=True is not supported: the marks it puts into the text would be read as text; "
            "take special tokens out of the conversation before it is given to the processor"
        )
    text["padded_length"] = text["max_length"] or text["padded_length"]
    _check_padding(text, loaded_with["padding"])
    images.pop("return_tensors", None)  # the pixels of all rows are joined as PyTorch tensors
    return text, images, videos


def _names_of(image_processor: BaseImageProcessor) -> set[str]:
    """List the options of this image processor that not all have, which are declared since Transformers 5."""
    return set(getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", ()))


def _check_padding(text: Mapping[str, Any], loaded_with: Any) -> None:
    """Refuse values that would pad in another way than was meant, unless they are the tokenizer's own."""
    for name, known in KNOWN_VALUES.items():
        value = text[name]
        if value in (None, *known) or (name == "padding" and (isinstance(value, bool) or value == loaded_with)):
            continue
        near = nearest(value, known) if isinstance(value, str) else None
        meant = "." if near is None else f"; did you mean {near!r}?"
        truth = "True, False, " if name == "padding" else ""
        raise ValueError(f"{name} is {shown(value)}{meant} Known are {truth}{', '.join(map(repr, known))}")
    if text["padding"] == "max_length" != loaded_with and text["padded_length"] is None:
        raise ValueError("padding='max_length' lacks the length to pad to; give max_length, too, or padding=True")


def _pass_over(names: set[str], known: set[str]) -> None:
    """Warn of names that are ignored, and refuse those that are nearly a known one."""
    for name in sorted(names):
        if near := nearest(name, sorted(known), ALIKE):
            raise ValueError(f"{name} is not an argument of this processor; did you mean {near}?")
        logger.warning_once(f"{name} is not an argument of this processor and is ignored")
