"""What one training or test example is, for every data set of this package."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from PIL import Image

from .media import ImageError, open_image

CAPTION_PROMPT = "a picture of"  # the authors' prompt for captions
CHOICES = 4


class Sample(TypedDict):
    """One example. ``prompt + answer`` are concatenated as they stand, so an answer usually starts with a space.

    It shows at most one of ``image``, ``images`` and ``video``. Where the prompt has marks, one ``<image>`` for each of
    ``images`` or one ``<video>`` for the whole of ``video``, they say where the pictures stand; without, all stand
    before the prompt.
    """

    id: str  # names the sample in error messages and prediction files
    image: Image.Image | None  # RGB; None = several pictures (below), or a text-only sample
    images: NotRequired[list[Image.Image]]  # RGB: several pictures, in order
    video: NotRequired[list[Image.Image]]  # RGB: the frames of one video, in order, all of one size
    prompt: str
    answer: str  # the text that is supervised
    references: list[str]  # every true answer, stripped; the first is the preferred one
    kind: str  # "caption", "presence", "count", "relation", "choice", ...: accuracy is reported by kind
    choices: NotRequired[list[str]]  # of questions with few possible answers: those, in the order asked


def check_arguments(name: str, split: str, size: int | None, kinds: Sequence[str], known: Sequence[str]) -> None:
    """What every drawn data set asks of its arguments.

    Raises:
        ValueError: a split, a size (None = all there is) or a kind that cannot be; ``name`` is the data set's.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if not kinds or set(kinds) - set(known):
        raise ValueError(f"unknown kinds {sorted(set(kinds) - set(known))}: the {name} data set has {list(known)}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")


def continuation(prompt: str, text: str) -> str:
    """``text`` as the answer that follows ``prompt``, its first word with a space before it.

    Byte-level BPE tokenizers make one token of a space and the word behind it; without the space the answer would begin
    with the rarer token of a word's inside, which the frozen language model never writes there.
    """
    return text.strip() if prompt[-1:].isspace() else f" {text.strip()}"


def choice_prompt(choices: Sequence[str]) -> str:
    """The multiple-choice question: the options stand in it, and the answer is the text of one of them."""
    return f"Which is there: {', '.join(choices[:-1])} or {choices[-1]}?"


IMAGE_MARK, VIDEO_MARK = "<image>", "<video>"
Field = Literal["image", "images", "video"]
FIELDS: tuple[Field, ...] = ("image", "images", "video")


@dataclass(frozen=True)
class Pictures:
    """The pictures of one row in order, and the field of the sample that holds them; None = it shows nothing."""

    field: Field | None = None
    pictures: tuple[Image.Image, ...] = ()


def pictures_of(sample: Sample) -> Pictures:
    """What the sample shows.

    Raises:
        ValueError: two of the fields, or a list without pictures; the message names the sample.
    """
    given = [field for field in FIELDS if sample.get(field) is not None]
    if len(given) > 1:
        raise ValueError(f"sample {sample['id']!r}: both {given[0]!r} and {given[1]!r}; give one, and None for 'image'")
    if not given:
        return Pictures()
    found: Any = sample[given[0]]
    pictures = (found,) if given[0] == "image" else tuple(found)
    if not pictures:
        raise ValueError(f"sample {sample['id']!r}: no pictures in {given[0]!r}; give some or leave the field out")
    return Pictures(given[0], pictures)


def opened(shown: Pictures, sample_id: str) -> Pictures:
    """The same with every picture upright, decoded and in mode RGB.

    Raises:
        ValueError: one that cannot be used; the message names the sample and the picture's place.
    """
    pictures = []
    for place, picture in enumerate(shown.pictures):
        # exactly Image: its subclass ImageFile is a file not yet decoded, perhaps damaged, perhaps lying on its side
        if type(picture) is not Image.Image or picture.mode != "RGB":
            try:
                picture = open_image(picture)
            except ImageError as error:
                where = "" if shown.field == "image" else f"{shown.field}[{place}]: "
                raise ValueError(f"sample {sample_id!r}: {where}{error}") from error
        pictures.append(picture)
    return Pictures(shown.field, tuple(pictures))


def processor_arguments(rows: Sequence[Pictures]) -> dict[str, list[Any]]:
    """The keyword arguments that hand B rows to a processor.

    ``images`` alone, with one picture or None per row, where no row has several pictures or a video. Otherwise a list
    of pictures per row, empty where it has none; and with a video among the rows, ``videos``: a list of frames per row,
    None where it has none.
    """
    fields = {row.field for row in rows}
    if not fields & {"images", "video"}:
        return {"images": [row.pictures[0] if row.pictures else None for row in rows]}
    arguments: dict[str, list[Any]] = {"images": [[] if row.field == "video" else list(row.pictures) for row in rows]}
    if "video" in fields:
        arguments["videos"] = [list(row.pictures) if row.field == "video" else None for row in rows]
    return arguments


def without_marks(prompt: str) -> str:
    """The prompt of a sample whose pictures are not shown."""
    return prompt.replace(IMAGE_MARK, "").replace(VIDEO_MARK, "")
