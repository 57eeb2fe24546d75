"""Defines a sample, the one format of all data sets of this package, and turns the images in it into model inputs.

In reading order: the sample itself, the text of its answer, and the images, several images or video that it shows.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from PIL import Image

from ..modeling.images import CAPTION_PROMPT, IMAGE_MARK
from ..modeling.videos import VIDEO_MARK
from .media import ImageError, open_video, ready_image

__all__ = [
    "CAPTION_PROMPT",
    "FIELDS",
    "IMAGE_MARK",
    "VIDEO_MARK",
    "Chat",
    "ChatTurn",
    "Field",
    "Question",
    "Sample",
    "Shown",
    "asked_and_answered",
    "continuation",
    "images_of",
    "opened",
    "processor_arguments",
    "without_marks",
]

Field = Literal["image", "images", "video"]
FIELDS: tuple[Field, ...] = ("image", "images", "video")
VIDEO_FRAMES = 8  # of a video that is named by its path; as many as ``adem-vl caption`` looks at


class ChatTurn(TypedDict):
    """Holds one message of a chat.

    Attributes:
        role (Literal["system", "user", "assistant"]): Who speaks.
        content (str): What is said, with marks where images and videos stand.
    """

    role: Literal["system", "user", "assistant"]
    content: str


Chat = list[ChatTurn]


class Question(TypedDict):
    """Holds one of several questions about the same images. Its fields are those of a sample.

    Attributes:
        prompt (str): The text before the answer.
        answer (str): The text that is supervised.
        references (list[str]): Every true answer.
        kind (str): The kind of question.
        choices (NotRequired[list[str]]): The possible answers, for questions with few of them.
    """

    prompt: str
    answer: str
    references: list[str]
    kind: str
    choices: NotRequired[list[str]]


class Sample(TypedDict):
    """Holds one training or test example.

    The model reads ``prompt + answer``, concatenated as they stand, so an answer usually starts with a space.

    A sample shows at most one of ``image``, ``images`` and ``video``. Marks in the prompt say where the images stand:
    one ``<image>`` for each of ``images``, or one ``<video>`` for the whole of ``video``. Without marks all images
    stand before the prompt.

    A sample may have several turns: ``turns``, questions about the same images, or ``messages``, a chat. ``prompt``,
    ``answer``, ``references`` and ``kind`` are then those of the last one.

    Attributes:
        id (str): The name of the sample in error messages and prediction files.
        image (Image.Image | None): One image in mode RGB. None means several images, a video or no image at all.
        images (NotRequired[list[Image.Image]]): Several images in mode RGB, in order.
        video (NotRequired[list[Image.Image]]): The frames of one video in mode RGB, in order and all of one size.
        prompt (str): The text before the answer. It is not supervised.
        answer (str): The text that is supervised.
        references (list[str]): Every true answer, without surrounding spaces. The first is the preferred one.
        kind (str): The kind of question: "caption", "presence", "count", "relation", "choice" and so on. Accuracy is
            reported by kind.
        choices (NotRequired[list[str]]): The possible answers in the order asked, for questions with few of them.
        turns (NotRequired[list[Question]]): The questions of one row, all of which are trained. Each later one follows
            the answer to the one before.
        messages (NotRequired[Chat]): The chat. If it ends with an answer of the assistant, all its answers are trained.
            Otherwise ``answer`` is the answer to it, and it alone is trained.
    """

    id: str
    image: Image.Image | None
    images: NotRequired[list[Image.Image]]
    video: NotRequired[list[Image.Image]]
    prompt: str
    answer: str
    references: list[str]
    kind: str
    choices: NotRequired[list[str]]
    turns: NotRequired[list[Question]]
    messages: NotRequired[Chat]


def asked_and_answered(sample: Sample) -> tuple[str | list[str] | Chat, str | list[str] | None]:
    """Return what a processor takes as ``text`` and as ``suffix`` to train on a sample.

    Args:
        sample (Sample): The sample.

    Returns:
        The prompt and the answer; the prompts and the answers of several questions; or the messages of a chat and
        the answer to it, or None if it ends with its answer.
    """
    if "turns" in sample:
        return [turn["prompt"] for turn in sample["turns"]], [turn["answer"] for turn in sample["turns"]]
    if "messages" in sample:
        is_whole = sample["messages"][-1]["role"] == "assistant"
        return sample["messages"], None if is_whole else sample["answer"]
    return sample["prompt"], sample["answer"]


def continuation(prompt: str, text: str) -> str:
    """Turn a text into the answer that continues a prompt, with a space before its first word.

    Byte-level BPE tokenizers make one token of a space and the word behind it. Without the space, the answer would
    begin with the rarer token for the inside of a word, which the frozen language model never writes after a prompt.

    Args:
        prompt (str): The text before the answer. No space is added if it ends with one.
        text (str): The answer. Surrounding spaces are removed.

    Returns:
        The text to append to the prompt.
    """
    return text.strip() if prompt[-1:].isspace() else f" {text.strip()}"


@dataclass(frozen=True)
class Shown:
    """Holds the images that a sample shows, and names the field of the sample that has them.

    Args:
        field (Field | None): The field, or None if the sample shows nothing.
        images (tuple[Image.Image, ...]): The image, the images or the frames, in order. Empty if there are none.
    """

    field: Field | None = None
    images: tuple[Image.Image, ...] = ()


def images_of(sample: Sample) -> Shown:
    """Collect the images that a sample shows.

    Args:
        sample (Sample): The sample. Its images are not opened.

    Returns:
        The images and the field that has them.

    Raises:
        ValueError: Two of the fields are given, or one without images. The message names the sample.
    """
    given = [field for field in FIELDS if sample.get(field) is not None]
    if len(given) > 1:
        raise ValueError(f"sample {sample['id']!r}: both {given[0]!r} and {given[1]!r}; give one, and None for 'image'")
    if not given:
        return Shown()
    found: Any = sample[given[0]]
    is_path = isinstance(found, str | os.PathLike)
    if given[0] != "image" and (isinstance(found, Mapping | bytes) or not (is_path or hasattr(found, "__iter__"))):
        kind = "a list of images" if given[0] == "images" else "a list of frames or the path of a file"
        raise ValueError(f"sample {sample['id']!r}: its {given[0]} is a {type(found).__name__}; give {kind}")
    images = (found,) if given[0] == "image" or is_path else tuple(found)
    if not images:
        raise ValueError(f"sample {sample['id']!r}: no images in {given[0]!r}; give some or leave the field out")
    return Shown(given[0], images)


def opened(shown: Shown, sample_id: str) -> Shown:
    """Decode images, turn them upright and convert them to mode RGB.

    Args:
        shown (Shown): The images, as ``images_of`` returns them.
        sample_id (str): The name of the sample, for error messages.

    Returns:
        The same field with images that are ready for the processor.

    Raises:
        ValueError: An image cannot be used. The message names the sample and the position of the image.
    """
    if shown.field == "video" and len(shown.images) == 1 and isinstance(shown.images[0], str | os.PathLike):
        try:
            return Shown("video", tuple(open_video(shown.images[0], VIDEO_FRAMES)))
        except ImageError as error:
            raise ValueError(f"sample {sample_id!r}: {error}") from error
    images = []
    for position, image in enumerate(shown.images):
        try:
            images.append(ready_image(image))
        except ImageError as error:
            where = "" if shown.field == "image" else f"{shown.field}[{position}]: "
            raise ValueError(f"sample {sample_id!r}: {where}{error}") from error
    return Shown(shown.field, tuple(images))


def processor_arguments(rows: Sequence[Shown]) -> dict[str, list[Any]]:
    """Make the keyword arguments that give the images of B rows to a processor.

    Args:
        rows (Sequence[Shown]): The B rows, each with the images of one sample.

    Returns:
        ``images`` alone with one image or None per row, if no row has several images or a video. Otherwise ``images``
        has a list per row, which is empty for a row without images. If a row has a video, ``videos`` is there, too: a
        list of frames per row, or None for a row without a video.
    """
    fields = {row.field for row in rows}
    if not fields & {"images", "video"}:
        return {"images": [row.images[0] if row.images else None for row in rows]}
    arguments: dict[str, list[Any]] = {"images": [[] if row.field == "video" else list(row.images) for row in rows]}
    if "video" in fields:
        arguments["videos"] = [list(row.images) if row.field == "video" else None for row in rows]
    return arguments


def without_marks(prompt: str | Chat) -> Any:
    """Remove the image and video marks from a prompt, for a sample whose images are not shown.

    Args:
        prompt (str | Chat): The prompt, or a chat that asks for an answer.

    Returns:
        The same without ``<image>`` and ``<video>``.
    """
    if isinstance(prompt, str):
        return prompt.replace(IMAGE_MARK, "").replace(VIDEO_MARK, "")
    return [{**turn, "content": without_marks(turn["content"])} for turn in prompt]
