"""Defines ADEM-VL's processor, which turns text, images and videos into model inputs, with labels for given answers.

``processor_options`` sorts the options of a call, ``processor_parts`` loads the tokenizer and the image processor,
``chat_parts`` reads chats, ``chat_rows`` renders them and finds the answers in them, ``row_layout`` builds the tokens
of a row, and ``images`` and ``videos`` open what the row shows.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import (
    BaseImageProcessor,
    BatchFeature,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from .arguments import HUB_ARGUMENTS, HUB_ARGUMENTS_OF_A_BASE, hub_arguments_of, recorded_place, refuse_unknown
from .chat_rows import INSTRUCTION_TEMPLATE, Message, chat_row, flatten_content, ready_chats, taking_parts
from .field_values import fits
from .image_forms import scaled_once
from .images import CAPTION_PROMPT, ImageSource
from .labels import NOT_SUPERVISED, padding_token
from .one_save import finish_save, one_save
from .processor_options import sort_options
from .processor_parts import (
    bring_code,
    check_saved,
    choose_image_token,
    keep_inside,
    load_image_processor,
    load_tokenizer,
    tidy_saved_tokenizer,
    try_processor,
)
from .reading import errors_naming
from .row_layout import NO_TEXT, Passage, Row, RowLayout, rows_of_text
from .videos import Video, pair_with_rows, pixel_inputs

if TYPE_CHECKING:  # never run: Transformers 4.57 finds the files of a checkpoint by these lines, in this file alone
    from .base_sizes import read_base_config  # noqa: F401
    from .bases import base_name  # noqa: F401
    from .chat_parts import plain_part  # noqa: F401
    from .open_clip_tower import OpenClipVisionTower  # noqa: F401
    from .quantization import split_gguf  # noqa: F401
    from .towers import find_tower  # noqa: F401
    from .video_files import open_animation  # noqa: F401
    from .vision import tower_blocks  # noqa: F401


class AdemVLProcessor(ProcessorMixin):
    """Turns text, images and videos into the inputs of ADEM-VL.

    It joins an image processor and a tokenizer. One call gives token ids, in which image tokens stand for the images,
    and pixels.

    Args:
        image_processor (BaseImageProcessor | None): The image processor of the vision tower, of any size and
            normalisation.
        tokenizer (PreTrainedTokenizerBase | None): The tokenizer of the language model.
        image_token (str | None): The token that stands for an image in ``input_ids``, from the vocabulary of the
            tokenizer. None means that ``choose_image_token`` chooses it.
        image_tokens (int): How many of these tokens one image takes: ``config.image_tokens``, where 1 is the class
            token.
        chat_template (str | dict[str, str] | None): The chat template in Jinja, or several by name. None means the
            tokenizer's own, extended to content lists with images and videos.
        prompt (str | None): The commonest prompt of the training, which commands and pipelines continue where none is
            given. None means that there is none.

    Raises:
        ValueError: There is no tokenizer, or ``image_token`` is not in its vocabulary.
    """

    if int(transformers.__version__.split(".")[0]) < 5:  # newer versions read them from the signature below
        attributes = ["image_processor", "tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"
    always_has_mask = True  # False leaves image_mask out where every image exists, for code that knows no such input

    def __init__(
        self,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_token: str | None = None,
        image_tokens: int = 1,
        chat_template: str | dict[str, str] | None = None,
        prompt: str | None = None,
    ) -> None:
        if tokenizer is None:
            raise ValueError("tokenizer is missing: pass the tokenizer of the language model")
        self.image_token = image_token or choose_image_token(tokenizer)
        self.image_tokens = image_tokens
        self.prompt = prompt
        vocabulary = tokenizer.get_vocab()
        if self.image_token not in vocabulary:
            raise ValueError(
                f"image_token {self.image_token!r} is not in the tokenizer's vocabulary; "
                f"take one that is, such as {choose_image_token(tokenizer)!r}"
            )
        self.image_token_id = vocabulary[self.image_token]
        if chat_template is None and getattr(tokenizer, "chat_template", None):
            chat_template = flatten_content(tokenizer.chat_template)
        tokenizer.padding_side = "left"  # Transformers' pipelines pad a batch by it, which then generates
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, taking_parts(value) if name == "chat_template" else value)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> "AdemVLProcessor":
        """Load a processor that was saved, as Transformers' method of this name does, and try it once.

        Args:
            pretrained_model_name_or_path (str | os.PathLike[str]): A folder, or the id of a repository on the Hub.
            **kwargs (Any): Keyword arguments of Transformers' method. ``trust_remote_code`` is False unless it is
                given, so that nobody is asked.

        Returns:
            AdemVLProcessor: The processor.

        Raises:
            OSError: A file cannot be reached.
            ValueError: A file is damaged, or holds a value that cannot be. The message names it.
        """
        name = str(pretrained_model_name_or_path)
        kwargs.setdefault("trust_remote_code", False)
        folder = Path(name, kwargs.get("subfolder") or "")
        finish_save(folder)  # of a process that died
        check_saved(folder)
        lacks = folder.is_dir() and not (folder / "tokenizer.json").is_file()  # an older tokenizer has other files
        what = f"the processor in {name}{', which has no tokenizer.json' if lacks else ''}"
        with errors_naming(what, "fetch or save its tokenizer and processor files again"):
            found = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
            processor = found[0] if isinstance(found, tuple) else found
            try_processor(processor, name)
        return found

    @classmethod
    def from_base_pretrained(
        cls, language_model: str, vision_tower: str, config: PretrainedConfig, **hub: Any
    ) -> "AdemVLProcessor":
        """Make the processor of a model that is built from two bases.

        If the vision tower has no image processor, images are resized to the square size that the model takes
        (``config.image_size``) without cropping, as the authors do.

        Args:
            language_model (str): The language model, whose tokenizer is taken: a folder, the id of a repository on the
                Hub, or the path of a GGUF file in either.
            vision_tower (str): The vision tower, whose image processor is taken: a folder or the id of a repository.
            config (PretrainedConfig): The configuration of the model. It has the revisions and subfolders of both
                bases, the image token and the number of image tokens.
            **hub (Any): Hub arguments for both: ``token``, ``revision``, ``subfolder``, ``cache_dir``,
                ``local_files_only``, ``force_download``. As ``text_model_token``, ``vision_model_token`` and so on they
                are for one of the two.

        Returns:
            AdemVLProcessor: The processor.

        Raises:
            TypeError: An argument is not one of these.
            ValueError: The language model has no tokenizer that can be loaded, or it has no token that can stand for
                images.
            OSError: The files of the vision tower cannot be reached.
        """
        where = f"{cls.__name__}.from_base_pretrained"
        refuse_unknown(where, hub, (*HUB_ARGUMENTS, *HUB_ARGUMENTS_OF_A_BASE))
        of_text, of_vision = (
            recorded_place(base, config) | hub_arguments_of(base, hub) for base in ("text_model", "vision_model")
        )
        tokenizer = load_tokenizer(language_model, **of_text)
        keep_inside(tokenizer, config.text_config.vocab_size)
        image_processor = load_image_processor(vision_tower, config, **of_vision)
        image_token = None
        if config.image_token_id is not None:
            image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        return cls(image_processor, tokenizer, image_token=image_token, image_tokens=config.image_tokens)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> list[str]:
        """Save the image processor, the tokenizer and the processor's own fields. None of the objects is changed.

        Args:
            save_directory (str | os.PathLike[str]): The folder. It is made if it is missing.
            *args (Any): Positional arguments of Transformers' method of this name.
            **kwargs (Any): Keyword arguments of Transformers' method of this name, such as ``push_to_hub``.

        Returns:
            list[str]: The paths of the files written, as far as Transformers reports them.

        Raises:
            ValueError: The place is a file.
            OSError: The disk is full, or the folder cannot be written to. What was there is as it was.
        """
        target = Path(save_directory)
        if target.is_file():
            raise ValueError(f"cannot save to {save_directory}: it is a file; name a folder")
        push = kwargs.pop("push_to_hub", False)
        unmarked: list[Any] = [part for part in (self, self.image_processor) if not hasattr(part, "auto_map")]
        with one_save(target) as temporary:
            saved = super().save_pretrained(temporary, *args, **kwargs)
            for part in unmarked:  # Transformers notes in this attribute where the saved code lies, and leaves it there
                if hasattr(part, "auto_map"):
                    del part.auto_map
            tidy_saved_tokenizer(temporary)
            bring_code(target, temporary)
        if push:
            self.push_to_hub(kwargs.pop("repo_id", target.name), **kwargs)
        return [str(target / Path(path).relative_to(temporary)) for path in saved or []]

    def apply_chat_template(
        self, conversation: list[dict[str, Any]] | list[list[dict[str, Any]]], *args: Any, **kwargs: Any
    ) -> Any:
        """Turn a chat, or a list of chats, into text or model inputs, as Transformers' method of this name does.

        Without a chat template, each turn has the form of ADEM-VL's instructions (``INSTRUCTION_TEMPLATE``), in which
        chats are trained then, too.

        Token ids without other model inputs are lists, unless ``return_tensors`` is given. This is so in all of
        Transformers; its method would return the tensors that this processor makes by default.

        Args:
            conversation (list[dict[str, Any]] | list[list[dict[str, Any]]]): The messages of a chat, each with a "role"
                and a "content", or several chats. The content is a text, or a list of parts in any spelling that is
                trained: "text", "image", "image_url", "video", ...
            *args (Any): Positional arguments of Transformers' method.
            **kwargs (Any): Keyword arguments of Transformers' method.

        Returns:
            Any: A text or a list of texts. With ``tokenize=True``, token ids as lists, or with ``return_dict=True``
            what ``__call__`` returns.

        Raises:
            ValueError: A message or a part is unknown, or the images do not fit the marks. The message names the turn.
        """
        given, own = args[0] if args else kwargs.pop("chat_template", None), self.chat_template
        if given is None and own is None:
            given = INSTRUCTION_TEMPLATE
        elif given is not None and not (isinstance(own, dict) and given in own):
            given = taking_parts(given)
        conversation = ready_chats(conversation, given, own, kwargs)
        out = super().apply_chat_template(conversation, given, *args[1:], **kwargs)
        return_tensors = {**kwargs, **(kwargs.get("processor_kwargs") or {})}.get("return_tensors", "auto")
        return out.tolist() if isinstance(out, torch.Tensor) and return_tensors in (None, "auto") else out

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model inputs that a call may return."""
        return ["input_ids", "attention_mask", "pixel_values", "image_mask"]

    @property
    def default_prompt(self) -> str:
        """The prompt that is continued where none is given: the recorded one, or that of the authors' captions."""
        return self.prompt or CAPTION_PROMPT

    @property
    def pad_token_id(self) -> int:
        """Id of the token that fills rows up: the padding token, or the end of sequence if the tokenizer has none."""
        return padding_token(self.image_token_id, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource | Sequence[ImageSource] | None] | None = None,
        text: str | Sequence[str | Sequence[str] | Sequence[Message]] | None = None,
        suffix: str | Sequence[str | Sequence[str] | None] | None = None,
        videos: Video | Sequence[Video | Sequence[Video] | None] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Make the model inputs of B rows of text, each with any number of images and videos.

        Args:
            images (ImageSource | Sequence[ImageSource | Sequence[ImageSource] | None] | None): One image (a PIL image,
                a path or bytes), or one entry per row: an image, a list of images, or None. For a single row, a list of
                images is enough.
            text (str | Sequence[str | Sequence[str] | Sequence[Message]] | None): One prompt or B rows. A row is a
                prompt; a list of prompts, which are the questions of one row; or a chat, a list of messages with a
                "role" and a "content". A row has as many ``<image>`` marks as images (``image_token`` is such a mark,
                too) and as many ``<video>`` marks as videos. Without any mark of the kind, they stand before the text.
            suffix (str | Sequence[str | Sequence[str] | None] | None): The answers. They add ``labels``. A prompt and
                its answer are tokenised as one text, which has no space between the two unless you write one, and the
                end of sequence follows. A list of prompts needs a list of as many answers. An answer to a chat is
                rendered as its next message; without one (None), all answers of a chat that ends with an answer are
                supervised, each with the end of its turn.
            videos (Video | Sequence[Video | Sequence[Video] | None] | None): One entry per row: a video, a list of
                videos, or None. For a single row, the video itself is enough. A video is a list of frames, an array
                [frames, H, W, 3], or the path of an animated image, a folder of frames or a video file.
            **kwargs (Any): Options, flat or in ``text_kwargs``, ``images_kwargs``, ``videos_kwargs`` and
                ``common_kwargs``. Any option of the image processor, and:
                ``return_tensors``: default "pt".
                ``num_frames``: how many frames to choose from all over each video; default all.
                ``max_length``: the longest row allowed, in tokens; default the tokenizer's limit. Nothing is ever cut.
                ``padding``: "max_length" pads to that length; anything else pads to the longest row.
                ``padding_side``: default "left", or "right" if ``suffix`` is given.
                ``pad_to_multiple_of``: T becomes a multiple of this number.
                ``add_special_tokens``: False for a text that is complete, as a chat template writes it. Then neither a
                beginning of sequence nor "Image: N/A" is put before it.
                ``return_offsets_mapping``: adds ``offset_mapping``, which has for every token the characters [from, to)
                of ``text`` that it stands for, and (0, 0) for a token of no character. Chat templates find the answers
                by it.

        Returns:
            BatchFeature: ``input_ids`` and ``attention_mask`` [B, T]; with ``suffix`` also ``labels`` [B, T], where
            -100 means not supervised. With images, also ``pixel_values`` [B, 3, H, W] and ``image_mask`` [B], or
            [B, n, 3, H, W] and [B, n] if a row has several.

        Raises:
            ValueError: The numbers of texts, images, videos or answers differ, images do not fit the marks, the frames
                of a video have several sizes, an answer is empty, or a row is longer than ``max_length``; the message
                names the row. Or an option is given twice or misspelt.
            ImageError: An image cannot be used. The message names its path.
        """
        options, image_options, video_options = sort_options(kwargs, self.tokenizer, self.image_processor)
        texts = rows_of_text(text)
        answers: list[Any] = [suffix] if isinstance(suffix, str) else list(suffix or [])
        answers = [None] * len(texts) if suffix is None else answers
        if len(answers) != len(texts):
            raise ValueError(f"{len(texts)} texts and {len(answers)} answers do not pair up; give one of each per row")
        shown = pair_with_rows(images, videos, len(texts), video_options.get("num_frames"))
        layout = RowLayout(self.tokenizer, self.image_token, self.image_tokens)
        limit = options["max_length"] or self.tokenizer.model_max_length
        rows = []
        for number, (asked, of_row, answer) in enumerate(zip(texts, shown, answers, strict=True)):
            passages = self._passages(number, asked, answer, (len(of_row.images), len(of_row.videos)))
            if not all(fits(passage.text, str) for passage in passages):
                raise ValueError(
                    f"sample {number}: its text has half of a surrogate pair, as of an emoji that was cut; write the "
                    "whole character or remove it"
                )
            frames = [len(video) for video in of_row.videos]
            row = layout.encode(number, passages, len(of_row.images), frames, options["add_special_tokens"])
            if len(row) > limit:
                raise ValueError(
                    f"sample {number}: {len(row) - row.supervised} tokens of prompt and {row.supervised} of answer "
                    f"exceed the window of {limit}; shorten the text or raise max_length (nothing is cut silently)"
                )
            rows.append(row)
        with_labels = suffix is not None or any(row.supervised for row in rows)
        side = options["padding_side"] or ("right" if with_labels else "left")
        shortest = (options["padded_length"] or 0) if options["padding"] == "max_length" else 0
        data = self._pad(rows, side, with_labels, shortest, options["pad_to_multiple_of"] or 1)
        if not options["return_offsets_mapping"]:
            data.pop("offset_mapping")
        in_order = [of_row.in_order(row.order) for of_row, row in zip(shown, rows, strict=True)]
        data |= pixel_inputs(in_order, self.image_processor, scaled_once(image_options, images, videos))
        if not self.always_has_mask and "image_mask" in data and data["image_mask"].all():
            data.pop("image_mask")
        data |= self._more_inputs(rows)
        return_tensors = options["return_tensors"]
        return BatchFeature(data, tensor_type=None if return_tensors == "pt" else return_tensors)

    def _passages(self, number: int, asked: Any, answer: Any, counts: tuple[int, int]) -> list[Passage]:
        """Turn a row of ``text`` and of ``suffix``, with so many images and videos, into what is tokenised."""
        if isinstance(asked, str):
            return [Passage.of(asked, answer)]
        if isinstance(asked, Mapping) or any(isinstance(message, Mapping) for message in asked):
            return [chat_row(number, asked, answer, self.chat_template, self.tokenizer, *counts)]
        answers = [None] * len(asked) if answer is None else answer
        if not len(asked) or isinstance(answers, str) or len(answers) != len(asked):
            raise ValueError(
                f"sample {number}: {len(asked)} prompts and the answers {answer!r}; give one for each, in a list"
            )
        if wrong := next((one for one in asked if not isinstance(one, str)), None):
            raise ValueError(f"sample {number}: its text has {wrong!r}; give prompts, not token ids")
        return [Passage.of(*pair) for pair in zip(asked, answers, strict=True)]

    def _more_inputs(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Make model inputs that a subclass has beside those of ADEM-VL."""
        return {}

    def _pad(self, rows: list[Row], side: str, with_labels: bool, shortest: int, multiple: int) -> dict[str, Any]:
        """Join rows to tensors [B, T], where T is at least ``shortest`` and a multiple of ``multiple``."""
        pad = self.pad_token_id
        longest = max([shortest, *map(len, rows)])
        longest = -(-longest // multiple) * multiple  # T, rounded up
        data: dict[str, list] = {"input_ids": [], "attention_mask": []} | ({"labels": []} if with_labels else {})
        mapping = []
        for row in rows:
            room = longest - len(row)
            before, after = (room, 0) if side == "left" else (0, room)
            data["input_ids"].append([pad] * before + row.ids + [pad] * after)
            data["attention_mask"].append([0] * before + [1] * len(row) + [0] * after)
            mapping.append([NO_TEXT] * before + row.offsets + [NO_TEXT] * after)
            if with_labels:
                data["labels"].append([NOT_SUPERVISED] * before + row.labels + [NOT_SUPERVISED] * after)
        return {name: torch.tensor(values) for name, values in data.items()} | {"offset_mapping": mapping}


AdemVLProcessor.register_for_auto_class()

__all__ = ["AdemVLProcessor"]
