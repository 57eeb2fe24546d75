"""What one training or test example is, for every data set of this package."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from PIL import Image

CAPTION_PROMPT = "a picture of"  # the authors' prompt for captions
CHOICES = 4


class Sample(TypedDict):
    """One example. ``prompt + answer`` are concatenated as they stand, so an answer usually starts with a space."""

    id: str  # names the sample in error messages and prediction files
    image: Image.Image | None  # RGB; None = a text-only sample
    prompt: str
    answer: str  # the text that is supervised
    references: list[str]  # every true answer, stripped; the first is the preferred one
    kind: str  # "caption", "presence", "count", "relation", "choice", ...: accuracy is reported by kind
    choices: NotRequired[list[str]]  # kind "choice": the options, in the order asked


def continuation(prompt: str, text: str) -> str:
    """``text`` as the answer that follows ``prompt``, its first word with a space before it.

    Byte-level BPE tokenizers make one token of a space and the word behind it; without the space the answer would begin
    with the rarer token of a word's inside, which the frozen language model never writes there.
    """
    return text.strip() if prompt[-1:].isspace() else f" {text.strip()}"


def choice_prompt(choices: Sequence[str]) -> str:
    """The multiple-choice question: the options stand in it, and the answer is the text of one of them."""
    return f"Which is there: {', '.join(choices[:-1])} or {choices[-1]}?"
