"""Text and pictures to model inputs, with labels where answers are given (the layout is in ``row_layout``)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoImageProcessor, BatchFeature, CLIPImageProcessor, ProcessorMixin
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .images import ImageSource
from .row_layout import IMAGE_MARK, VIDEO_MARK, Row, RowLayout, choose_image_token, load_tokenizer, name_tokenizer_class
from .videos import pixels_of_rows, rows_of_pictures

if TYPE_CHECKING:  # never run: 4.57 finds the files that travel together by these lines, and looks no further than here
    from .bases import split_gguf  # noqa: F401
    from .vision import tower_blocks  # noqa: F401

IGNORED = -100  # label of a position that is not supervised

# turns the content lists of multimodal chats into text with marks, for a tokenizer's own template that follows
FLATTEN_CONTENT = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set text = message['content'] -%}{%- else -%}{%- set text -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    + IMAGE_MARK
    + "{%- elif part['type'] == 'video' -%}"
    + VIDEO_MARK
    + "{%- elif part['type'] == 'text' -%}"
    "{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endset -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text)] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


def flatten_content(template: str | dict[str, str]) -> str | dict[str, str]:
    """A tokenizer's chat template, or all of its named ones, for content lists too."""
    if isinstance(template, dict):
        return {name: FLATTEN_CONTENT + one for name, one in template.items()}
    return FLATTEN_CONTENT + template


class AdemVLProcessor(ProcessorMixin):
    """An image processor and a tokenizer behind one call.

    Args:
        image_processor: of the vision tower (any size and normalisation). tokenizer: of the language model.
        image_token: stands for an image's embeddings in ``input_ids``; chosen by :func:`choose_image_token` when None.
        image_tokens: how many of them one image takes (``config.image_tokens``; 1 = the class token).

    Raises:
        ValueError: for an ``image_token`` that the tokenizer does not know.
    """

    if int(transformers.__version__.split(".")[0]) < 5:  # newer versions read them off the constructor
        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"

    def __init__(
        self, image_processor=None, tokenizer=None, image_token=None, image_tokens=1, chat_template=None, **kwargs
    ):
        self.image_token = image_token or choose_image_token(tokenizer)
        self.image_tokens = image_tokens
        vocabulary = tokenizer.get_vocab()
        if self.image_token not in vocabulary:
            raise ValueError(
                f"image_token {self.image_token!r} is not in the tokenizer's vocabulary; "
                f"take one that is, such as {choose_image_token(tokenizer)!r}"
            )
        self.image_token_id = vocabulary[self.image_token]
        if chat_template is None and getattr(tokenizer, "chat_template", None):
            chat_template = flatten_content(tokenizer.chat_template)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_base_pretrained(cls, language_model: str, vision_tower: str, config) -> "AdemVLProcessor":
        """The processor for a fresh model of this config: the LM's tokenizer and the tower's image processor.

        Where the tower brings no preprocessing of its own, images are squeezed to its size (the authors do not crop).
        """
        tokenizer = load_tokenizer(language_model, config.text_model_revision)
        try:
            revision = config.vision_model_revision or "main"
            image_processor = AutoImageProcessor.from_pretrained(vision_tower, revision=revision)
        except (OSError, ValueError):
            side = config.vision_config.image_size
            image_processor = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
        image_token = None
        if config.image_token_id is not None:
            image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        return cls(image_processor, tokenizer, image_token=image_token, image_tokens=config.image_tokens)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the image processor, the tokenizer and what joins them; all three are left as they are."""
        unmarked: list[Any] = [part for part in (self, self.image_processor) if not hasattr(part, "auto_map")]
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        for part in unmarked:  # the library notes on them where their code will lie, and reads no such note back
            if hasattr(part, "auto_map"):
                del part.auto_map
        name_tokenizer_class(save_directory)
        return saved

    def apply_chat_template(self, conversation, *args, **kwargs):
        """Transformers' own; bare token ids come as lists unless ``return_tensors`` is given, as everywhere in it."""
        out = super().apply_chat_template(conversation, *args, **kwargs)
        asked = {**kwargs, **(kwargs.get("processor_kwargs") or {})}.get("return_tensors", "auto")
        return out.tolist() if isinstance(out, torch.Tensor) and asked in (None, "auto") else out

    @property
    def model_input_names(self):
        return ["input_ids", "attention_mask", "pixel_values", "image_mask"]

    @property
    def pad_token_id(self) -> int:
        """What rows are padded with: the tokenizer's padding token, or its end of text where it has none."""
        tokenizer = self.tokenizer
        return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource | Sequence[ImageSource] | None] | None = None,
        text: str | Sequence[str] | None = None,
        suffix: str | Sequence[str] | None = None,
        videos=None,
        **kwargs,
    ) -> BatchFeature:
        """B rows of text, each with any number of images, or a video.

        Args:
            images: a picture (PIL, path, bytes), or one entry a row: a picture, a list of pictures, or None.
            text: one prompt or B of them; as many ``<image>`` marks as images (``image_token`` is one, too) and
                ``<video>`` marks as videos, or none of the kind: they then stand before the text.
            suffix: the answers; adds ``labels`` and the end-of-sequence token. ``text + suffix`` is tokenised as one.
            videos: one entry a row: a video, a list of videos, or None; a video is a list of frames or an array
                [frames, H, W, 3], or a path (of an animated picture, a folder of frames, a film).
            **kwargs: flat, or in ``text_kwargs``, ``images_kwargs``, ``videos_kwargs`` and ``common_kwargs``: any
                option of the image processor, ``return_tensors`` (default "pt"), ``num_frames`` (that many frames of
                each video, from all over it; default all), and of the text:
                ``max_length``: longest row in tokens (default the tokenizer's own limit). Nothing is ever cut.
                ``padding``: "max_length" pads to that; anything else to the longest row.
                ``padding_side``: default left, or right when ``suffix`` is given.
                ``pad_to_multiple_of``: T is one of this number.
                ``add_special_tokens``: False for text that is complete, as a chat template writes it: no beginning of
                sequence and no "Image: N/A" is put before it.
                ``return_offsets_mapping``: adds ``offset_mapping``, for every token of ``text`` the characters [from,
                to) that it stands for; (0, 0) for those that no character stands for. Chat templates find the answers
                by it.

        Returns:
            ``input_ids``, ``attention_mask`` [B, T]; with ``suffix`` also ``labels`` [B, T], -100 = not supervised;
            with pictures ``pixel_values`` [B, 3, H, W] and ``image_mask`` [B], or [B, n, 3, H, W] and [B, n] where a
            row has several.

        Raises:
            ValueError: naming the row: unequal numbers, images that do not fit the marks, frames of several sizes, an
                empty answer, a row longer than the window. Also an option that is given twice.
        """
        options, of_images, of_videos = sort_options(kwargs, self.tokenizer, self.image_processor)
        if text is None:
            raise ValueError("text is missing: give one prompt per image")
        if kwargs.get("fps") is not None:
            raise ValueError("fps: frames are chosen by their number; give num_frames")
        texts = [text] if isinstance(text, str) else list(text)
        suffixes = [None] * len(texts) if suffix is None else [suffix] if isinstance(suffix, str) else list(suffix)
        if len(suffixes) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(suffixes)} answers do not pair up; give one of each per row")
        pictures = rows_of_pictures(images, videos, len(texts), of_videos.get("num_frames"))
        layout = RowLayout(self.tokenizer, self.image_token, self.image_tokens)
        limit = options["max_length"] or self.tokenizer.model_max_length
        rows = []
        for number, (one, seen, answer) in enumerate(zip(texts, pictures, suffixes, strict=True)):
            frames = [len(video) for video in seen.videos]
            row = layout.encode(number, one, len(seen.images), frames, answer, options["add_special_tokens"])
            if len(row) > limit:
                raise ValueError(
                    f"sample {number}: {len(row.prompt)} tokens of prompt and {len(row.answer)} of answer exceed the "
                    f"window of {limit}; shorten the text or raise max_length (nothing is cut silently)"
                )
            rows.append(row)
        side = options["padding_side"] or ("left" if suffix is None else "right")
        shortest = (options["padded_length"] or 0) if options["padding"] == "max_length" else 0
        data = self._pad(rows, side, suffix is not None, shortest, options["pad_to_multiple_of"] or 1)
        if not options["return_offsets_mapping"]:
            data.pop("offset_mapping")
        ordered = [seen.in_order(row.order) for seen, row in zip(pictures, rows, strict=True)]
        data |= pixels_of_rows(ordered, self.image_processor, of_images)
        data |= self._more_inputs(rows)
        return_tensors = options["return_tensors"]
        return BatchFeature(data, tensor_type=None if return_tensors == "pt" else return_tensors)

    def _more_inputs(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        return {}

    def _pad(self, rows: list[Row], side: str, with_labels: bool, shortest: int, multiple: int) -> dict[str, Any]:
        pad = self.pad_token_id
        longest = max([shortest, *map(len, rows)])
        longest = -(-longest // multiple) * multiple
        data: dict[str, list] = {"input_ids": [], "attention_mask": []} | ({"labels": []} if with_labels else {})
        mapping = []
        for row in rows:
            ids, answer, offsets, room = row.prompt, row.answer, row.offsets, longest - len(row)
            before, after = (room, 0) if side == "left" else (0, room)
            data["input_ids"].append([pad] * before + ids + answer + [pad] * after)
            data["attention_mask"].append([0] * before + [1] * (longest - room) + [0] * after)
            mapping.append([(0, 0)] * before + offsets + [(0, 0)] * (len(answer) + after))
            if with_labels:
                data["labels"].append([IGNORED] * (before + len(ids)) + answer + [IGNORED] * after)
        return {name: torch.tensor(values) for name, values in data.items()} | {"offset_mapping": mapping}

    def batch_decode(self, *args, **kwargs) -> list[str]:
        """The tokenizer's."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args, **kwargs) -> str:
        """The tokenizer's."""
        return self.tokenizer.decode(*args, **kwargs)

    def post_process_image_text_to_text(self, generated, skip_special_tokens=True, **kwargs) -> list[str]:
        """Token ids to text, for the library's image-text-to-text pipeline."""
        return self.tokenizer.batch_decode(generated, skip_special_tokens=skip_special_tokens, **kwargs)


AdemVLProcessor.register_for_auto_class()

__all__ = ["AdemVLProcessor"]


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
