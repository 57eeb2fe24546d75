"""Text and images to model inputs, with labels where answers are given.

The authors' layout (``<bos> "Image: " <class embedding> prompt answer <eos>``, and ``<bos> "Image: N/A" prompt`` for a
sample without an image). An explicit ``<image>`` mark in the text says where the image goes instead.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, CLIPImageProcessor, ProcessorMixin

from .images_adem_vl import ImageSource, open_image
from .options_adem_vl import sort_options
from .quantized_adem_vl import split_gguf

IMAGE_MARK = "<image>"
PREFIX_WITH_IMAGE, PREFIX_WITHOUT_IMAGE = "Image: ", "Image: N/A"
IGNORED = -100  # label of a position that is not supervised

# turns the content lists of multimodal chats into text with marks, for a tokenizer's own template that follows
FLATTEN_CONTENT = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set text = message['content'] -%}{%- else -%}{%- set text -%}"
    "{%- for part in message['content'] -%}{%- if part['type'] == 'image' -%}"
    + IMAGE_MARK
    + "{%- elif part['type'] == 'text' -%}"
    "{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endset -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [dict(message, content=text)] -%}{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)


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
        **kwargs,
    ) -> BatchFeature:
        """B rows of text, each with at most one image.

        Args:
            images: a picture (PIL, path, bytes) or B of them, None where a row has none.
            text: one prompt or B of them; at most one ``<image>`` mark each (``image_token`` is one, too).
            suffix: the answers; adds ``labels`` and the end-of-sequence token. ``text + suffix`` is tokenised as one.
            **kwargs: flat, or in ``text_kwargs``, ``images_kwargs`` and ``common_kwargs``: any option of the image
                processor, ``return_tensors`` (default "pt"), and of the text:
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
            ``input_ids``, ``attention_mask`` [B, T]; with images ``pixel_values`` [B, 3, H, W] and ``image_mask`` [B];
            with ``suffix`` also ``labels`` [B, T], -100 = not supervised.

        Raises:
            ValueError: naming the row: unequal numbers, an image without its mark or the reverse, an empty answer, a
                row longer than the window. Also an option that is given twice.
        """
        options, of_images = sort_options(kwargs, self.tokenizer, self.image_processor)
        texts, pictures, suffixes = self._rows(images, text, suffix)
        limit = options["max_length"] or self.tokenizer.model_max_length
        rows = []
        for number, (one, picture, answer) in enumerate(zip(texts, pictures, suffixes, strict=True)):
            has_image, add_special_tokens = picture is not None, options["add_special_tokens"]
            ids, answer_ids, offsets = self._encode(number, one, has_image, answer, add_special_tokens)
            if len(ids) + len(answer_ids) > limit:
                raise ValueError(
                    f"sample {number}: {len(ids)} tokens of prompt and {len(answer_ids)} of answer exceed the window "
                    f"of {limit}; shorten the text or raise max_length (nothing is cut silently)"
                )
            rows.append((ids, answer_ids, offsets))
        side = options["padding_side"] or ("left" if suffix is None else "right")
        shortest = (options["padded_length"] or 0) if options["padding"] == "max_length" else 0
        data = self._pad(rows, side, suffix is not None, shortest, options["pad_to_multiple_of"] or 1)
        if not options["return_offsets_mapping"]:
            data.pop("offset_mapping")
        if any(picture is not None for picture in pictures):
            data |= self._pixels(pictures, of_images)
        return_tensors = options["return_tensors"]
        return BatchFeature(data, tensor_type=None if return_tensors == "pt" else return_tensors)

    def _rows(self, images, text, suffix):
        if text is None:
            raise ValueError("text is missing: give one prompt per image")
        texts = [text] if isinstance(text, str) else list(text)
        if images is None:
            pictures = [None] * len(texts)
        else:
            pictures = list(images) if isinstance(images, (list, tuple)) else [images]
            # chat templates hand over one list of images per conversation
            pictures = [self._only(i, p) if isinstance(p, (list, tuple)) else p for i, p in enumerate(pictures)]
        suffixes = [None] * len(texts) if suffix is None else [suffix] if isinstance(suffix, str) else list(suffix)
        if not len(texts) == len(pictures) == len(suffixes):
            raise ValueError(
                f"{len(texts)} texts, {len(pictures)} images and {len(suffixes)} answers do not pair up; "
                "give one of each per row (None for a row without an image)"
            )
        return texts, pictures, suffixes

    @staticmethod
    def _only(number: int, pictures: Sequence):
        if len(pictures) > 1:
            raise ValueError(f"sample {number}: {len(pictures)} images; ADEM-VL takes one image a sample")
        return pictures[0] if pictures else None

    def _encode(
        self, number: int, text: str, has_image: bool, answer: str | None, add_special_tokens: bool
    ) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Of one row: token ids of the prompt, of the supervised answer, and the prompt's characters by token."""
        parts, marks = self._split_at_marks(text)
        if len(marks) > int(has_image):
            raise ValueError(
                f"sample {number}: {len(marks)} {IMAGE_MARK} marks for {int(has_image)} images; "
                "ADEM-VL takes one image a sample, and a mark only where there is one"
            )
        gap = sum(map(len, marks))
        tokenizer, bos = self.tokenizer, self.tokenizer.bos_token
        begins = bos is not None and text.startswith(bos)
        at = len(bos) if begins else 0  # the characters that are done with
        parts[0] = parts[0][at:]
        ids = [tokenizer.bos_token_id] if begins or (bos is not None and add_special_tokens) else []
        offsets = [(0, at)] * len(ids)
        if self.image_tokens:  # with nothing in the input to mark, the authors write no prefix either
            placeholder = [self.image_token_id] * self.image_tokens
            if len(parts) == 2:
                before, spans = self._ids_and_offsets(parts[0], at)
                ids, offsets, at = ids + before, offsets + spans, at + len(parts[0])
                offsets += [(at, at + gap)] * len(placeholder)
                ids, at = ids + placeholder, at + gap
            elif has_image:
                ids += self._ids(PREFIX_WITH_IMAGE) + placeholder
            elif add_special_tokens and not (begins or self._begins_as_a_chat(text)):
                ids += self._ids(PREFIX_WITHOUT_IMAGE)
            last = parts[-1]
        else:
            last = "".join(parts)
        offsets += [(0, 0)] * (len(ids) - len(offsets))
        prompt_ids, spans = self._ids_and_offsets(last, at)
        if len(parts) == 2 and not self.image_tokens:  # the mark was taken out
            cut = at + len(parts[0])
            spans = [(b + gap * (b >= cut), e + gap * (e > cut)) for b, e in spans]
        offsets += spans
        if answer is None:
            return ids + prompt_ids, [], offsets
        joint = self._ids(last + answer)
        # tokenised as one, as in training by the authors, unless that would change the prompt's own tokens
        clean = joint[: len(prompt_ids)] == prompt_ids
        answer_ids = joint[len(prompt_ids) :] if clean else self._ids(answer)
        if not answer.strip() or not answer_ids:
            raise ValueError(f"sample {number}: the answer {answer!r} leaves nothing to supervise; give it a text")
        return ids + prompt_ids, [*answer_ids, tokenizer.eos_token_id], offsets

    def _split_at_marks(self, text: str) -> tuple[list[str], list[str]]:
        """The text between the marks, and the marks."""
        tokenizer = self.tokenizer
        marks = {IMAGE_MARK, self.image_token}
        if self.image_token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token):
            marks.remove(self.image_token)  # where it also stands for something else, it is text
        pieces = re.split(f"({'|'.join(map(re.escape, sorted(marks)))})", text)
        return pieces[::2], pieces[1::2]

    def _begins_as_a_chat(self, text: str) -> bool:
        """Whether the text opens with a special token, as chat templates do that write no beginning of sequence."""
        specials = (token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special)
        return text.startswith(tuple(token for token in specials if token != self.image_token))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _ids_and_offsets(self, text: str, start: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the characters of each in the whole text, of which this part begins at ``start``."""
        if not text or not self.tokenizer.is_fast:
            ids = self._ids(text)
            return ids, [(0, 0)] * len(ids)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], [(start + begin, start + end) for begin, end in found["offset_mapping"]]

    def _pad(self, rows, side: str, with_labels: bool, shortest: int, multiple: int) -> dict[str, Any]:
        pad = self.pad_token_id
        longest = max([shortest, *(len(ids) + len(answer) for ids, answer, _ in rows)])
        longest = -(-longest // multiple) * multiple
        data: dict[str, list] = {"input_ids": [], "attention_mask": []} | ({"labels": []} if with_labels else {})
        mapping = []
        for ids, answer, offsets in rows:
            room = longest - len(ids) - len(answer)
            before, after = (room, 0) if side == "left" else (0, room)
            data["input_ids"].append([pad] * before + ids + answer + [pad] * after)
            data["attention_mask"].append([0] * before + [1] * (longest - room) + [0] * after)
            mapping.append([(0, 0)] * before + offsets + [(0, 0)] * (len(answer) + after))
            if with_labels:
                data["labels"].append([IGNORED] * (before + len(ids)) + answer + [IGNORED] * after)
        return {name: torch.tensor(values) for name, values in data.items()} | {"offset_mapping": mapping}

    def _pixels(self, pictures, options: dict[str, Any]) -> dict[str, torch.Tensor]:
        given = [open_image(picture) for picture in pictures if picture is not None]
        pixels = self.image_processor(images=given, return_tensors="pt", **options)["pixel_values"]  # [I, 3, H, W]
        mask = torch.tensor([picture is not None for picture in pictures])  # [B]
        pixel_values = pixels.new_zeros(len(pictures), *pixels.shape[1:])
        pixel_values[mask] = pixels
        return {"pixel_values": pixel_values, "image_mask": mask}

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
