"""Builds the token ids of a row from its text, its images and videos, and its answers.

The layout is the authors': ``<bos> "Image: " <image tokens> prompt answer <eos>``, or ``<bos> "Image: N/A" prompt`` for
a sample without an image. Marks in the text, ``<image>`` and ``<video>``, say where images stand instead. A row of
several questions goes on with the next ``prompt answer <eos>``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from .images import IMAGE_MARK
from .labels import NOT_SUPERVISED
from .videos import VIDEO_MARK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PREFIX_WITH_IMAGE, PREFIX_WITHOUT_IMAGE = "Image: ", "Image: N/A"
ONE_A_ROW = "give a prompt, a list of prompts or a chat for each row"
NO_TEXT = (0, 0)  # offsets of a token that no character of the text stands for

Token = tuple[int, tuple[int, int] | None]  # its id, and the characters that it stands for if the tokenizer knows them


def rows_of_text(text: Any) -> list[Any]:
    """List the texts of a call of the processor.

    Args:
        text (Any): One prompt or a sequence of rows, each a prompt, a list of prompts or a chat.

    Returns:
        list[Any]: The rows.

    Raises:
        ValueError: It is missing or something else, or one of its rows is.
    """
    if text is None:
        raise ValueError("text is missing: give one prompt per image")
    if isinstance(text, str):
        return [text]
    if isinstance(text, Mapping):
        raise ValueError(f"text is a mapping with {', '.join(map(str, text))}; a chat is a list of messages")
    if isinstance(text, bytes) or not hasattr(text, "__iter__"):
        raise ValueError(f"text is {text!r}; {ONE_A_ROW}")
    rows = list(text)
    for number, row in enumerate(rows):
        if isinstance(row, bytes) or not hasattr(row, "__len__"):
            raise ValueError(f"sample {number}: its text is {row!r}; {ONE_A_ROW}")
    return rows


@dataclass
class Passage:
    """Holds a text that is tokenised as one, and says which of its characters are answers.

    Args:
        text (str): The text, with marks where images and videos stand.
        answers (list[tuple[int, int]]): The characters [from, to) of each answer, in order. They are supervised.
        marks_end (int | None): Marks count as marks before this character only. None means everywhere.
        is_closed (bool): Whether an end of sequence, which is supervised, follows the text.
    """

    text: str
    answers: list[tuple[int, int]] = field(default_factory=list)
    marks_end: int | None = None
    is_closed: bool = False

    @classmethod
    def of(cls, prompt: str, answer: str | None) -> "Passage":
        """Make the passage of a prompt and the answer that follows it.

        Args:
            prompt (str): The prompt.
            answer (str | None): The answer, in which no mark is a mark. None means none.

        Returns:
            Passage: The passage, which an end of sequence closes if there is an answer.
        """
        if answer is None:
            return cls(prompt)
        return cls(prompt + answer, [(len(prompt), len(prompt + answer))], len(prompt), True)


class Piece(NamedTuple):
    """Describes a piece of a passage: a mark, or a text that is supervised as a whole or not at all.

    Args:
        text (str): The text of the piece.
        start (int): The position of its first character in the passage.
        is_mark (bool): Whether it is a mark.
        is_supervised (bool): Whether it is a part of an answer.
    """

    text: str
    start: int
    is_mark: bool
    is_supervised: bool


@dataclass
class Row:
    """Holds the tokens of one row.

    Args:
        ids (list[int]): The token ids, with those of the images.
        labels (list[int]): For each token its id if it is supervised, otherwise -100.
        offsets (list[tuple[int, int]]): For each token, the characters [from, to) of the text that it stands for;
            (0, 0) if there are none, and for the tokens of answers.
        order (list[bool]): One entry for each image and each video, in the order of the text: True for a video.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    order: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return len(self.labels) - self.labels.count(NOT_SUPERVISED)

    def extend(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]], is_supervised: bool = False) -> None:
        """Append tokens.

        Args:
            ids (Sequence[int]): Their ids.
            offsets (Sequence[tuple[int, int]]): The characters that each stands for.
            is_supervised (bool): Whether they are supervised.
        """
        self.ids += ids
        self.labels += ids if is_supervised else [NOT_SUPERVISED] * len(ids)
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

    tokenizer: "PreTrainedTokenizerBase"
    image_token: str
    image_tokens: int

    def __post_init__(self) -> None:
        tokenizer, marks = self.tokenizer, {IMAGE_MARK, VIDEO_MARK, self.image_token}
        if self.image_token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token):
            marks.remove(self.image_token)
        self.marks = re.compile("|".join(map(re.escape, sorted(marks))))
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        specials = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        self.specials = tuple(token for token in specials if token != self.image_token)

    def encode(
        self, number: int, passages: Sequence[Passage], images: int, videos: list[int], add_special_tokens: bool
    ) -> Row:
        """Build one row.

        Args:
            number (int): The position of the row in its batch, for error messages.
            passages (Sequence[Passage]): The texts of the row, at least one. Each is tokenised by itself, so that a
                question has the same tokens wherever it stands.
            images (int): How many images the row has.
            videos (list[int]): The number of frames of each of its videos.
            add_special_tokens (bool): Whether to begin with the beginning of sequence and, without an image, with
                "Image: N/A". A beginning of sequence that the text itself has is kept either way.

        Returns:
            Row: The tokens of the row.

        Raises:
            ValueError: The marks do not fit the images and videos, an answer has no tokens, or the tokenizer has no
                end of sequence to put behind it.
        """
        text, bos = passages[0].text, self.tokenizer.bos_token
        has_bos = bos is not None and text.startswith(bos)  # chat templates write it themselves
        start = len(bos) if has_bos else 0
        row = Row()
        if has_bos or (bos is not None and add_special_tokens):
            row.extend([self.tokenizer.bos_token_id], [(0, start)])

        pieces = [list(self._cut(passage, 0 if place else start)) for place, passage in enumerate(passages)]
        in_text = [piece.text == VIDEO_MARK for cut in pieces for piece in cut if piece.is_mark]
        check_marks(number, in_text, images, len(videos))
        # images without marks stand before the text, and so do videos
        before_text = [False] * (0 if False in in_text else images) + [True] * (0 if True in in_text else len(videos))
        row.order = before_text + in_text
        frames = iter(videos)
        counts = [self.image_tokens * (next(frames) if is_video else 1) for is_video in row.order]

        # some chat templates begin with a special token other than the beginning of sequence
        complete = not add_special_tokens or has_bos or text.startswith(self.specials)
        if self.image_tokens and (before_text or (not row.order and not complete)):  # else the authors write no prefix
            ids = self._ids(PREFIX_WITH_IMAGE if before_text else PREFIX_WITHOUT_IMAGE)
            ids += [self.image_token_id] * sum(counts[: len(before_text)])
            row.extend(ids, [NO_TEXT] * len(ids))
        of_marks = iter(counts[len(before_text) :])
        for passage, cut in zip(passages, pieces, strict=True):
            supervised = row.supervised
            self._append(row, cut, of_marks)
            answers = [passage.text[begin:end] for begin, end in passage.answers]
            if answers and (row.supervised == supervised or not all(map(str.strip, answers))):
                answer = next((answer for answer in answers if not answer.strip()), answers[0])
                raise ValueError(f"sample {number}: the answer {answer!r} leaves nothing to supervise; give it a text")
            if passage.is_closed:
                self._close(row)
        return row

    def _cut(self, passage: Passage, start: int) -> Iterator[Piece]:
        """Cut a passage into marks and the text between them, from a character on."""
        text = passage.text
        marks_end = len(text) if passage.marks_end is None else passage.marks_end
        marks = {found.start(): found.end() for found in self.marks.finditer(text, start, marks_end)}
        edges = {start, len(text), *marks, *marks.values(), *(edge for span in passage.answers for edge in span)}
        ordered = sorted(edges)
        for begin, end in pairwise(ordered):
            is_mark = marks.get(begin) == end
            answered = any(first <= begin < last for first, last in passage.answers)
            yield Piece(text[begin:end], begin, is_mark, answered and not is_mark)

    def _append(self, row: Row, pieces: Sequence[Piece], counts: Iterator[int]) -> None:
        """Append the tokens of a passage. Marks become image tokens, or are taken out if images have none."""
        run: list[Piece] = []  # the text since the last mark
        for piece in pieces:
            if not piece.is_mark:
                run.append(piece)
            elif self.image_tokens:
                self._append_text(row, run)
                run, count = [], next(counts)
                row.extend([self.image_token_id] * count, [(piece.start, piece.start + len(piece.text))] * count)
        self._append_text(row, run)

    def _append_text(self, row: Row, run: Sequence[Piece]) -> None:
        """Append the tokens of text that has no mark in it."""
        where = [piece.start + number for piece in run for number in range(len(piece.text))]  # of each character
        for piece, tokens in zip(run, self._tokens(run), strict=True):
            offsets = [NO_TEXT if piece.is_supervised else _in_passage(found, where) for _, found in tokens]
            row.extend([token for token, _ in tokens], offsets, piece.is_supervised)

    def _tokens(self, run: Sequence[Piece]) -> list[list[Token]]:
        """Tokenise text as one, and tell which tokens belong to which of its pieces.

        What stands before an answer gets the tokens that it has where the answer is not there yet, as when the model is
        asked. Where a token would reach from there into the answer, the text is tokenised in two parts.
        """
        texts = [piece.text for piece in run]
        whole = self._tokenised("".join(texts))
        if len(run) < 2:
            return [whole] * len(run)
        ids, bounds = [token for token, _ in whole], [0]
        alone = [self._ids(text) for text in texts]
        if list(chain(*alone)) == ids:  # nearly always
            for found in alone:
                bounds.append(bounds[-1] + len(found))
        else:
            for place, piece in enumerate(run[:-1], start=1):
                before = self._ids("".join(texts[:place]))
                same = next((n for n, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
                if same < len(before) and not piece.is_supervised:
                    shift = len("".join(texts[:place]))
                    rest = [
                        [(token, at and (at[0] + shift, at[1] + shift)) for token, at in tokens]
                        for tokens in self._tokens(run[place:])
                    ]
                    return [*self._tokens(run[:place]), *rest]
                # a token that reaches out of an answer is the answer's
                bounds.append(min(len(ids), max(bounds[-1], same + (same < len(before)))))
            bounds.append(len(ids))
        return [whole[begin:end] for begin, end in pairwise(bounds)]

    def _close(self, row: Row) -> None:
        """Append the end of sequence, which is supervised."""
        if self.tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no end of sequence, so that no answer would ever end; set tokenizer.eos_token"
            )
        row.extend([self.tokenizer.eos_token_id], [NO_TEXT], is_supervised=True)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _tokenised(self, text: str) -> list[Token]:
        """Tokenise a text, with the characters that each token stands for, as far as the tokenizer knows them."""
        if not text or not self.tokenizer.is_fast:
            return [(token, None) for token in self._ids(text)]
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(found["input_ids"], found["offset_mapping"], strict=True))


def _in_passage(offsets: tuple[int, int] | None, where: Sequence[int]) -> tuple[int, int]:
    """Turn the offsets of a token in a run of text into offsets in its passage; ``where`` has each character's."""
    if offsets is None:
        return NO_TEXT
    begin, end = offsets
    if begin < end:
        return where[begin], where[end - 1] + 1
    place = where[begin] if begin < len(where) else where[-1] + 1
    return place, place


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
