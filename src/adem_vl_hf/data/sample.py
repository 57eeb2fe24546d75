"""What one training or test example is, for every data set of this package."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from PIL import Image

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
