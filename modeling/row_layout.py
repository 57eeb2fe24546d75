"""The layout of a row: which token ids a prompt, its pictures and its answer become.

The authors' layout (``<bos> "Image: " <image tokens> prompt answer <eos>``, and ``<bos> "Image: N/A" prompt`` for a
sample without an image). Explicit ``<image>`` and ``<video>`` marks in the text say where pictures go instead.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .bases import split_gguf

IMAGE_MARK, VIDEO_MARK = "<image>", "<video>"
PREFIX_WITH_IMAGE, PREFIX_WITHOUT_IMAGE = "Image: ", "Image: N/A"


@dataclass
class Row:
    """Of one row: token ids of the prompt and of the supervised answer, and the prompt's characters by token.

    ``order``: for each picture or video of the row as it stands in the text, whether it is a video.
    """

    prompt: list[int]
    order: list[bool]
    answer: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass
class RowLayout:
    """How rows are built.

    Args:
        tokenizer: of the language model. image_token: stands for an image. image_tokens: how many of them one image (or
            frame) takes; 0 = images leave no trace in the text.
    """

    tokenizer: Any
    image_token: str
    image_tokens: int

    def __post_init__(self) -> None:
        tokenizer, marks = self.tokenizer, {IMAGE_MARK, VIDEO_MARK, self.image_token}
        if self.image_token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token):
            marks.remove(self.image_token)  # where it also stands for something else, it is text
        self.marks = re.compile(f"({'|'.join(map(re.escape, sorted(marks)))})")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        specials = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.specials = tuple(token for token in specials if token != self.image_token)

    def encode(
        self, number: int, text: str, images: int, videos: list[int], answer: str | None, add_special_tokens: bool
    ) -> Row:
        """One row.

        Args:
            number: of the row, for errors. images: how many it has. videos: the frames of each of its videos.

        Raises:
            ValueError: marks and pictures that do not pair up, or an answer without a token.
        """
        pieces = self.marks.split(text)  # text, mark, text, mark, ... text
        marks = [mark == VIDEO_MARK for mark in pieces[1::2]]
        check_marks(number, marks, images, len(videos))
        # what no mark names stands before the text
        order = [False] * (0 if False in marks else images) + [True] * (0 if True in marks else len(videos))
        unmarked = len(order)
        order += marks
        frames = iter(videos)
        tokens = [self.image_tokens * (next(frames) if is_video else 1) for is_video in order]
        tokenizer, bos = self.tokenizer, self.tokenizer.bos_token
        begins = bos is not None and text.startswith(bos)  # a chat template writes its own beginning
        at = len(bos) if begins else 0  # the characters that are done with
        pieces[0] = pieces[0][at:]
        ids = [tokenizer.bos_token_id] if begins or (bos is not None and add_special_tokens) else []
        offsets = [(0, at)] * len(ids)
        last, gaps = pieces[-1], []
        if self.image_tokens:
            if unmarked:
                ids += self._ids(PREFIX_WITH_IMAGE) + [self.image_token_id] * sum(tokens[:unmarked])
                offsets += [(0, 0)] * (len(ids) - len(offsets))
            for before, mark, number_of_tokens in zip(pieces[:-1:2], pieces[1::2], tokens[unmarked:], strict=True):
                new, spans = self._ids_and_offsets(before, at)
                ids, offsets, at = ids + new, offsets + spans, at + len(before)
                offsets += [(at, at + len(mark))] * number_of_tokens
                ids, at = ids + [self.image_token_id] * number_of_tokens, at + len(mark)
            # chat templates that write no beginning of sequence open with another special token
            if not order and add_special_tokens and not (begins or text.startswith(self.specials)):
                ids += self._ids(PREFIX_WITHOUT_IMAGE)
        else:  # with nothing in the input to mark, the authors write no prefix either, and marks are taken out
            last, end = "".join(pieces[::2]), at
            for before, mark in zip(pieces[:-1:2], pieces[1::2], strict=True):
                end += len(before)
                gaps.append((end, len(mark)))
        offsets += [(0, 0)] * (len(ids) - len(offsets))
        prompt_ids, spans = self._ids_and_offsets(last, at)
        for cut, length in reversed(gaps):
            spans = [(b + length * (b >= cut), e + length * (e > cut)) for b, e in spans]
        row = Row(ids + prompt_ids, order, offsets=offsets + spans)
        if answer is not None:
            joint = self._ids(last + answer)
            # tokenised as one, as in training by the authors, unless that would change the prompt's own tokens
            clean = joint[: len(prompt_ids)] == prompt_ids
            answer_ids = joint[len(prompt_ids) :] if clean else self._ids(answer)
            if not answer.strip() or not answer_ids:
                raise ValueError(f"sample {number}: the answer {answer!r} leaves nothing to supervise; give it a text")
            row.answer = [*answer_ids, tokenizer.eos_token_id]
        return row

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _ids_and_offsets(self, text: str, start: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and the characters of each in the whole text, of which this part begins at ``start``."""
        if not text or not self.tokenizer.is_fast:
            ids = self._ids(text)
            return ids, [(0, 0)] * len(ids)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], [(start + begin, start + end) for begin, end in found["offset_mapping"]]


def check_marks(number: int, marks: list[bool], images: int, videos: int) -> None:
    """Of each kind as many marks as there are pictures or videos, or none.

    Args:
        marks: True for a video's.

    Raises:
        ValueError: naming the row, with the marks and the pictures counted.
    """
    for is_video, mark, there, name in ((False, IMAGE_MARK, images, "images"), (True, VIDEO_MARK, videos, "videos")):
        found = marks.count(is_video)
        if found not in (0, there):
            raise ValueError(
                f"sample {number}: {found} {mark} marks for {there} {name}; write one for each, or none at all (they "
                "then stand before the text)"
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
