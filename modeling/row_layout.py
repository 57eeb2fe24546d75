"""Builds the token ids of a row from its text, its images and videos, and its answer.

The layout is the authors': ``<bos> "Image: " <image tokens> prompt answer <eos>``, or ``<bos> "Image: N/A" prompt`` for
a sample without an image. Marks in the text, ``<image>`` and ``<video>``, say where images stand instead.
"""

import re
from dataclasses import dataclass, field
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from .images import IMAGE_MARK
from .videos import VIDEO_MARK

PREFIX_WITH_IMAGE, PREFIX_WITHOUT_IMAGE = "Image: ", "Image: N/A"
NO_TEXT = (0, 0)  # offsets of a token that no character of the text stands for


@dataclass
class Row:
    """Holds the tokens of one row.

    Args:
        prompt (list[int]): The token ids before the answer, with those of the images.
        offsets (list[tuple[int, int]]): For each token of the prompt, the characters [from, to) of the text that it
            stands for; (0, 0) if there are none.
        answer (list[int]): The token ids of the supervised answer, with the end of sequence; empty without an answer.
        order (list[bool]): One entry for each image and each video, in the order of the text: True for a video.
    """

    prompt: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    order: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)

    def extend(self, ids: list[int], offsets: list[tuple[int, int]]) -> None:
        """Append tokens to the prompt.

        Args:
            ids (list[int]): Their ids.
            offsets (list[tuple[int, int]]): The characters that each stands for.
        """
        self.prompt += ids
        self.offsets += offsets


@dataclass
class RowLayout:
    """Builds rows for one model.

    Args:
        tokenizer (PreTrainedTokenizerBase): The tokenizer of the language model.
        image_token (str): The token that stands for an image. In the text, it is a mark like ``<image>``, unless it is
            also the beginning of sequence, the end of sequence, the padding or the unknown token.
        image_tokens (int): How many of these tokens one image or frame takes. 0 means that images leave no trace in
            the text.
    """

    tokenizer: PreTrainedTokenizerBase
    image_token: str
    image_tokens: int

    def __post_init__(self) -> None:
        tokenizer, marks = self.tokenizer, {IMAGE_MARK, VIDEO_MARK, self.image_token}
        if self.image_token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token):
            marks.remove(self.image_token)
        self.marks = re.compile(f"({'|'.join(map(re.escape, sorted(marks)))})")
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        specials = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.specials = tuple(token for token in specials if token != self.image_token)

    def encode(
        self, number: int, text: str, images: int, videos: list[int], answer: str | None, add_special_tokens: bool
    ) -> Row:
        """Build one row.

        Args:
            number (int): The position of the row in its batch, for error messages.
            text (str): The prompt, with or without marks.
            images (int): How many images the row has.
            videos (list[int]): The number of frames of each of its videos.
            answer (str | None): The text to supervise. None means none.
            add_special_tokens (bool): Whether to begin with the beginning of sequence and, without an image, with
                "Image: N/A". A beginning of sequence that the text itself has is kept either way.

        Returns:
            Row: The tokens of the row.

        Raises:
            ValueError: The marks do not fit the images and videos, the answer has no tokens, or the tokenizer has no
                end of sequence to put behind it.
        """
        bos = self.tokenizer.bos_token
        has_bos = bos is not None and text.startswith(bos)  # chat templates write it themselves
        start = len(bos) if has_bos else 0
        row = Row()
        if has_bos or (bos is not None and add_special_tokens):
            row.extend([self.tokenizer.bos_token_id], [(0, start)])

        pieces = self.marks.split(text[start:])  # text, mark, text, mark, ..., text
        in_text = [mark == VIDEO_MARK for mark in pieces[1::2]]
        check_marks(number, in_text, images, len(videos))
        # images without marks stand before the text, and so do videos
        before_text = [False] * (0 if False in in_text else images) + [True] * (0 if True in in_text else len(videos))
        row.order = before_text + in_text

        # some chat templates begin with a special token other than the beginning of sequence
        complete = not add_special_tokens or has_bos or text.startswith(self.specials)
        if self.image_tokens:
            if not row.order and not complete:
                ids = self._ids(PREFIX_WITHOUT_IMAGE)
                row.extend(ids, [NO_TEXT] * len(ids))
            start = self._append_images(row, pieces, start, videos)
            rest = pieces[-1]
            rest_ids, offsets = self._ids_and_offsets(rest, start)
        else:  # the authors write no prefix if images have no tokens; marks are taken out
            rest = "".join(pieces[::2])
            rest_ids, offsets = self._ids_and_offsets(rest, start)
            offsets = _offsets_with_marks(offsets, pieces, start)
        row.extend(rest_ids, offsets)
        if answer is not None:
            row.answer = self._answer_ids(number, rest, rest_ids, answer)
        return row

    def _append_images(self, row: Row, pieces: list[str], start: int, videos: list[int]) -> int:
        """Append the tokens of a row's images and videos, with all text before the last mark.

        Returns the position in the text of the last piece, which is left to the caller.
        """
        frames = iter(videos)
        counts = [self.image_tokens * (next(frames) if is_video else 1) for is_video in row.order]
        texts, marks = pieces[:-1:2], pieces[1::2]
        unmarked = len(counts) - len(marks)
        if unmarked:
            ids = self._ids(PREFIX_WITH_IMAGE) + [self.image_token_id] * sum(counts[:unmarked])
            row.extend(ids, [NO_TEXT] * len(ids))
        for text, mark, count in zip(texts, marks, counts[unmarked:], strict=True):
            row.extend(*self._ids_and_offsets(text, start))
            start += len(text)
            row.extend([self.image_token_id] * count, [(start, start + len(mark))] * count)
            start += len(mark)
        return start

    def _answer_ids(self, number: int, before: str, before_ids: list[int], answer: str) -> list[int]:
        """Tokenise the answer that stands behind a text, whose own tokens it must not change."""
        joint = self._ids(before + answer)  # as the authors do in training
        same_prompt = joint[: len(before_ids)] == before_ids
        ids = joint[len(before_ids) :] if same_prompt else self._ids(answer)
        if not answer.strip() or not ids:
            raise ValueError(f"sample {number}: the answer {answer!r} leaves nothing to supervise; give it a text")
        if self.tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no end of sequence, so that no answer would ever end; set tokenizer.eos_token"
            )
        return [*ids, self.tokenizer.eos_token_id]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _ids_and_offsets(self, text: str, start: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise a part of the text that begins at character ``start`` of the whole, which the offsets count from."""
        if not text or not self.tokenizer.is_fast:
            ids = self._ids(text)
            return ids, [NO_TEXT] * len(ids)
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return found["input_ids"], [(start + begin, start + end) for begin, end in found["offset_mapping"]]


def _offsets_with_marks(offsets: list[tuple[int, int]], pieces: list[str], start: int) -> list[tuple[int, int]]:
    """Turn offsets in a text whose marks were taken out into offsets in the text with its marks."""
    texts, marks = pieces[:-1:2], pieces[1::2]
    cuts = list(accumulate(map(len, texts), initial=start))[1:]  # where each mark stood
    for cut, mark in reversed(list(zip(cuts, marks, strict=True))):
        shift = len(mark)
        offsets = [(begin + shift * (begin >= cut), end + shift * (end > cut)) for begin, end in offsets]
    return offsets


def check_marks(number: int, marks: list[bool], images: int, videos: int) -> None:
    """Check that a text has one mark for each image or none, and the same for videos.

    Args:
        number (int): The position of the row in its batch, for error messages.
        marks (list[bool]): The marks of the text in order: True for a video's.
        images (int): How many images the row has.
        videos (int): How many videos it has.

    Raises:
        ValueError: The numbers differ. The message names the row and both numbers.
    """
    for is_video, mark, there, name in ((False, IMAGE_MARK, images, "images"), (True, VIDEO_MARK, videos, "videos")):
        found = marks.count(is_video)
        if found not in (0, there):
            raise ValueError(
                f"sample {number}: {found} {mark} marks for {there} {name}; write one for each, or none at all (they "
                "then stand before the text)"
            )
