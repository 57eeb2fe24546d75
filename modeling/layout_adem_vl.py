"""The layout of a row: which token ids a prompt, its pictures and its answer become.

The authors' layout (``<bos> "Image: " <image tokens> prompt answer <eos>``, and ``<bos> "Image: N/A" prompt`` for a
sample without an image). Explicit ``<image>`` and ``<video>`` marks in the text say where pictures go instead.
"""

import re
from dataclasses import dataclass, field
from typing import Any

IMAGE_MARK, VIDEO_MARK = "<image>", "<video>"
MARKS = re.compile(f"({IMAGE_MARK}|{VIDEO_MARK})")
PREFIX_WITH_IMAGE, PREFIX_WITHOUT_IMAGE = "Image: ", "Image: N/A"


@dataclass
class Row:
    """Of one row: token ids of the prompt and of the supervised answer, and the prompt's characters by token."""

    prompt: list[int]
    answer: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass
class RowLayout:
    """How rows are built.

    Args:
        tokenizer: of the language model. image_token_id: stands for an image. image_tokens: how many of them one image
            (or frame) takes; 0 = images leave no trace in the text.
    """

    tokenizer: Any
    image_token_id: int
    image_tokens: int

    def encode(
        self, number: int, text: str, images: int, is_video: bool, answer: str | None, add_special_tokens: bool
    ) -> Row:
        """One row.

        Args:
            number: of the row, for errors. images: how many it has. is_video: whether they are the frames of a video.

        Raises:
            ValueError: marks and images that do not pair up, or an answer without a token.
        """
        pieces = MARKS.split(text)  # text, mark, text, mark, ... text
        marks = pieces[1::2]
        check_marks(number, marks, images, is_video)
        tokenizer, bos = self.tokenizer, self.tokenizer.bos_token
        begins = bos is not None and text.startswith(bos)  # a chat template writes its own beginning
        at = len(bos) if begins else 0  # the characters that are done with
        pieces[0] = pieces[0][at:]
        ids = [tokenizer.bos_token_id] if begins or (bos is not None and add_special_tokens) else []
        offsets = [(0, at)] * len(ids)
        last, gaps = pieces[-1], []
        if self.image_tokens:
            for before, mark in zip(pieces[:-1:2], marks, strict=True):
                new, spans = self._ids_and_offsets(before, at)
                ids, offsets, at = ids + new, offsets + spans, at + len(before)
                tokens = self.image_tokens * (images if mark == VIDEO_MARK else 1)
                offsets += [(at, at + len(mark))] * tokens
                ids, at = ids + [self.image_token_id] * tokens, at + len(mark)
            if images and not marks:
                ids += self._ids(PREFIX_WITH_IMAGE) + [self.image_token_id] * self.image_tokens * images
            elif not images and add_special_tokens and not begins:
                ids += self._ids(PREFIX_WITHOUT_IMAGE)
        else:  # with nothing in the input to mark, the authors write no prefix either, and marks are taken out
            last, end = "".join(pieces[::2]), at
            for before, mark in zip(pieces[:-1:2], marks, strict=True):
                end += len(before)
                gaps.append((end, len(mark)))
        offsets += [(0, 0)] * (len(ids) - len(offsets))
        prompt_ids, spans = self._ids_and_offsets(last, at)
        for cut, length in reversed(gaps):
            spans = [(b + length * (b >= cut), e + length * (e > cut)) for b, e in spans]
        row = Row(ids + prompt_ids, offsets=offsets + spans)
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


def check_marks(number: int, marks: list[str], images: int, is_video: bool) -> None:
    """Marks that name what is there, or none.

    Raises:
        ValueError: naming the row, with the marks and the pictures counted.
    """
    wanted = [VIDEO_MARK] if is_video else [IMAGE_MARK] * images
    if marks and marks != wanted:
        there = f"a video of {images} frames" if is_video else f"{images} images"
        found = " and ".join(f"{marks.count(m)} {m}" for m in (IMAGE_MARK, VIDEO_MARK) if m in marks)
        raise ValueError(
            f"sample {number}: {found} marks for {there}; write one {IMAGE_MARK} for each image, one {VIDEO_MARK} for "
            "the frames of a video together, or no mark at all (pictures then stand before the text)"
        )
